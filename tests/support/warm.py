"""What every training imports and computes once; the forkserver of ``trainings`` does so first."""

from __future__ import annotations

import matplotlib.backends.backend_agg  # noqa: F401
import reasoning_gym  # noqa: F401
import tyro._calling  # noqa: F401
from trainings import draw_nothing
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.qwen3 import modeling_qwen3  # noqa: F401

import cleaner_rl.compare.worker
import cleaner_rl.train  # noqa: F401

draw_nothing()
get_checkpoint_conversion_mapping("qwen3")
