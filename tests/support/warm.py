"""What every training imports and computes once; the forkserver of ``trainings`` does so first."""

from __future__ import annotations

import matplotlib.backends.backend_agg  # noqa: F401
import reasoning_gym  # noqa: F401
import tyro._calling  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.qwen3 import modeling_qwen3  # noqa: F401

import cleaner_rl.train  # noqa: F401

get_checkpoint_conversion_mapping("qwen3")
