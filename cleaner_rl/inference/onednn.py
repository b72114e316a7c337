"""Linear layers by oneDNN, for sampling on AMD processors.

Torch takes float32 matrix products from MKL, which leaves the AVX-512 units of AMD processors idle.
oneDNN, which is part of torch as well, uses them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_ROWS = 4
_LEAST_PRODUCTS = 1 << 20
"""Rows and multiplications from which oneDNN is faster. Its kernels take longer to be called, and
MKL has one of its own for a single row."""

_PROCESSORS = Path("/proc/cpuinfo")


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512, and torch has both libraries."""
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not libraries or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return _PROCESSORS.is_file() and "AuthenticAMD" in _PROCESSORS.read_text()


def use_onednn(model: Any) -> None:
    """Let the linear layers of a float32 model on a CPU call oneDNN where no gradient is wanted.
    Their values are the same up to rounding."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """A linear layer that leaves large products to oneDNN.

    oneDNN compiles a kernel for each number of rows, which takes longer than a small product. So
    rows are padded to one of eight numbers between a power of two and the next.
    """

    def forward(self, input: Tensor) -> Tensor:
        shape = input.shape[:-1]
        rows = shape.numel()
        large = rows >= _LEAST_ROWS and rows * self.weight.numel() >= _LEAST_PRODUCTS
        if torch.is_grad_enabled() or not large:
            return super().forward(input)
        step = max(8, 1 << rows.bit_length() >> 4)
        padded = F.pad(input.reshape(rows, -1), (0, 0, 0, -rows % step))
        output: Tensor = torch.ops.mkldnn._linear_pointwise(
            padded, self.weight, self.bias, "none", [], ""
        )
        return output[:rows].view(*shape, -1)
