"""Settings: the names that they take. Nothing here needs torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
LossName = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
CreditRule = Literal["purified", "positive", "contrastive", "branched"]
GraftedTreatment = Literal["recompute", "mask"]
SaarMode = Literal["on", "off", "shallow-only", "deep-only", "mask-failed", "roc"]
SimilarityOn = Literal["code", "call"]
SystemPrompt = Literal["auto", "default", "none"]
Preload = Literal["light", "full"]
ToolFormat = Literal["auto", "hermes", "qwen3-coder", "llama3", "harmony", "fenced"]
ToolRole = Literal["user", "tool"]
Schedule = Literal["reproducible", "eager"]
LoggerName = Literal["none", "tensorboard", "wandb"]
