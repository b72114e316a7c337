"""Whole tensors and models: gathered from their shards, and cut into shards again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cleaner_rl.models.precision import Precision


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as the parameter's neighbour: sharded as it is, on its device."""
    if not isinstance(parameter, DTensor):
        return tensor.to(parameter.device)
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


@torch.no_grad()
def whole_copy(model: Any, precision: Precision) -> Any:
    """A copy that is not sharded, with weights in that precision, never to be trained.

    Buffers, such as the frequencies of rotary embeddings, keep theirs.
    """
    dtype = getattr(torch, precision)
    copies = {
        id(p): nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=False)
        for p in model.parameters()
    }
    return copy.deepcopy(model, copies)


def sharing_copy(model: Any) -> Any:
    """A copy with a configuration and settings of its own, and the very same weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


@torch.no_grad()
def refresh(whole_model: Any, model: Any) -> None:
    """Put what is trained of a model into its whole copy, one parameter at a time.

    Where the model is sharded all ranks take part.
    """
    sources = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in whole_model.named_parameters():
        if name in sources:
            parameter.copy_(whole(sources[name]))
