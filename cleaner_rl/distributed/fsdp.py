"""Sharding: a model whose weights are distributed over ranks with FSDP2."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from cleaner_rl.errors import PolicyError
from cleaner_rl.settings import Precision


def shard(model: Any, mesh: DeviceMesh, precision: Precision) -> None:
    """Distribute the model's weights over the ranks, layer by layer, in place.

    Every rank must hold the same weights to begin with. Each keeps its part in float32; a pass
    gathers one layer at a time, in the precision of the pass. Gradients are summed over ranks, not
    averaged, because a loss's denominator already counts the samples of all ranks.

    Raises:
        PolicyError: the model is not a stack of layers.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise PolicyError(
            f"{type(model).__name__} has no list of layers to shard; train it in one process"
        )
    half = None if precision == "float32" else getattr(torch, precision)
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # Otherwise the root would keep, and expose, gathered weights after a pass without gradients.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for module in (*layers, model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_copy(model: Any, precision: Precision) -> Any:
    """An unsharded copy whose weights have that precision and are not trained.

    Buffers, such as the frequencies of rotary embeddings, keep their precision.
    """
    dtype = getattr(torch, precision)
    copies = {
        id(p): nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=False)
        for p in model.parameters()
    }
    return copy.deepcopy(model, copies)


def sharing_copy(model: Any) -> Any:
    """A copy with its own configuration and settings that shares the model's weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


@torch.no_grad()
def copy_weights(whole_model: Any, model: Any) -> None:
    """Copy a model's trained parameters into its whole copy, one at a time.

    If the model is sharded, every rank has to call this.
    """
    sources = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in whole_model.named_parameters():
        if name in sources:
            parameter.copy_(whole(sources[name]))
