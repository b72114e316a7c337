"""Compare linear layers by oneDNN with torch's own, in forward passes of one thread.

    python benchmarks/products.py

Passes of both kinds take turns, and the fastest of each counts. Sampling uses oneDNN on AMD
processors with AVX-512 only (``cleaner_rl.inference.onednn``); the last line says whether this is
one of them.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cleaner_rl.distributed.fsdp import sharing_copy
from cleaner_rl.inference.onednn import onednn_is_faster, use_onednn
from cleaner_rl.models.policy import load_policy
from cleaner_rl.runs.markdown import table

ROWS = (1, 4, 8, 32, 128, 512)
REPEATS = 9


def smollm2() -> Any:
    """Random weights in the shape of SmolLM2-135M."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def milliseconds(model: Any, ids: torch.Tensor) -> float:
    began = time.perf_counter()
    model(input_ids=ids)
    return 1e3 * (time.perf_counter() - began)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    lines = []
    for name, plain in (("bundled", load_policy("bundled", "cpu").model), ("smollm2", smollm2())):
        fast = sharing_copy(plain)
        use_onednn(fast)
        for rows in ROWS:
            ids = torch.randint(1000, (rows, 1))  # a token each, which attends to itself alone
            times = [(milliseconds(plain, ids), milliseconds(fast, ids)) for _ in range(REPEATS)]
            torchs, onednns = map(min, zip(*times, strict=True))
            lines.append(
                [name, f"{rows}", f"{torchs:.1f}", f"{onednns:.1f}", f"{torchs / onednns:.2f}"]
            )
    print(table(["shape", "rows", "torch, ms", "oneDNN, ms", "faster"], lines))
    print(f"sampling on this machine {'uses' if onednn_is_faster() else 'does not use'} oneDNN")


if __name__ == "__main__":
    main()
