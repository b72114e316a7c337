"""Sharding: a model whose weights are spread over ranks, by FSDP2."""

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
    """Spread the model's weights over the ranks, layer by layer, in place.

    Every rank must hold the same weights before. Each keeps its part in float32; a pass gathers one
    layer at a time, in half precision where passes run in it. Gradients are added up over ranks,
    not averaged: the denominators of losses count the samples of all ranks already.

    Raises:
        PolicyError: the model is no stack of layers.
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
    # The root would keep its weights gathered after a pass without gradients, and show those.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for module in (*layers, model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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
def copy_weights(whole_model: Any, model: Any) -> None:
    """Put what is trained of a model into its whole copy, one parameter at a time.

    Where the model is sharded all ranks take part.
    """
    sources = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in whole_model.named_parameters():
        if name in sources:
            parameter.copy_(whole(sources[name]))
