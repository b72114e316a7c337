"""Log-probabilities of the tokens of a pack, computed without holding all logits at once."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from cleaner_rl.learner.attention import packed
from cleaner_rl.learner.packing import Pack
from cleaner_rl.models.backends import has_triton
from cleaner_rl.models.memory import logit_chunk

_METHOD = "cleaner_logprobs"
"""Name of ``_token_logprobs`` as a method of sharded models: FSDP gathers weights for methods."""


def token_logprobs(
    model: Any,
    pack: Pack,
    temperature: float = 1.0,
    chunk: int | None = None,
    wanted_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token given those before it in its sample, and the entropy there.

    Args:
        model: a transformers causal language model; if it is sharded, every rank has to call this.
        temperature: the temperature of the sampling, a divisor of the logits.
        chunk: tokens whose logits are held at a time; these are recomputed for the gradient. None
            means ``logit_chunk``.
        wanted_T: True where values are wanted; no logits are computed for the other tokens.

    Returns:
        logprobs_T and entropies_T in float32 nats. Both are 0 where they are not wanted and for the
        first token of each sample, which nothing predicts. The entropies carry no gradient.
    """
    if not isinstance(model, FSDPModule):
        return _token_logprobs(model, pack, temperature, chunk, wanted_T)
    if not hasattr(model, _METHOD):
        setattr(model, _METHOD, MethodType(_token_logprobs, model))
        register_fsdp_forward_method(model, _METHOD)  # type: ignore[arg-type]
    pair: tuple[Tensor, Tensor] = getattr(model, _METHOD)(pack, temperature, chunk, wanted_T)
    return pair


def _token_logprobs(
    model: Any, pack: Pack, temperature: float, chunk: int | None, wanted_T: Tensor | None
) -> tuple[Tensor, Tensor]:
    hidden_UD = _hidden_states(model, pack)
    head = model.get_output_embeddings()
    if chunk is None:
        vocabulary = model.config.get_text_config().vocab_size
        chunk = logit_chunk(vocabulary, has_triton(hidden_UD.device))
    predicted_T = pack.parents_U[pack.slots_T] >= 0
    if wanted_T is not None:
        predicted_T &= wanted_T
    place_M = predicted_T.nonzero().squeeze(1)
    # A token that several samples share is a single target.
    target_N, of_target_M = pack.slots_T[place_M].unique(return_inverse=True)
    zeros_T = torch.zeros(len(pack.slots_T), dtype=torch.float32, device=hidden_UD.device)
    if len(target_N) == 0:
        # A head that took no part would leave this rank fewer gradients to reduce than others.
        return zeros_T + 0.0 * head(hidden_UD[:1])[0, 0], zeros_T
    pieces = [
        checkpoint(
            _chunk_logprobs,
            head,
            hidden_UD[pack.parents_U[index_N]],
            pack.ids_U[index_N],
            temperature,
            use_reentrant=False,
        )
        for index_N in target_N.split(chunk)
    ]
    logprobs_N, entropies_N = map(torch.cat, zip(*pieces, strict=True))
    places = (place_M,)
    return (
        zeros_T.index_put(places, logprobs_N[of_target_M]),
        zeros_T.index_put(places, entropies_N[of_target_M]),
    )


def _hidden_states(model: Any, pack: Pack) -> Tensor:
    """[U, D] last hidden states of the row."""
    embedded_1UD = model.get_input_embeddings()(pack.ids_U[None])
    if torch.is_autocast_enabled(embedded_1UD.device.type):
        # Layers add to this residual. In float32, the output of each would be converted, and the
        # numbers would differ from the sampler's.
        embedded_1UD = embedded_1UD.to(torch.get_autocast_dtype(embedded_1UD.device.type))
    with packed(model):
        output = model.base_model(
            inputs_embeds=embedded_1UD,
            position_ids=pack.positions_U[None],
            use_cache=False,
            segments=pack.segments,
        )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _chunk_logprobs(
    head: Any, hidden_ND: Tensor, ids_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_NV = head(hidden_ND)
    pair: tuple[Tensor, Tensor] = _LogProbability.apply(logits_NV, ids_N, temperature)  # type: ignore[no-untyped-call]
    return pair


class _LogProbability(torch.autograd.Function):
    """Log-probability and entropy of logits. The gradient overwrites what was saved for it, so
    fewer tensors of the logits' size are alive at a time than with autograd's own formulas: with
    Triton on CUDA, only the logits themselves."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, ids_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.dtype = temperature, logits_NV.dtype
        ctx.in_one_reading = has_triton(logits_NV.device)
        if ctx.in_one_reading:
            from cleaner_rl.learner.triton_logprobs import logprobs_of

            logprobs_N, entropies_N, sums_N = logprobs_of(logits_NV, ids_N, temperature)
            ctx.save_for_backward(logits_NV, ids_N, sums_N)
            ctx.mark_non_differentiable(entropies_N)
            return logprobs_N, entropies_N
        scaled_NV = logits_NV.float()
        if temperature != 1.0:
            scaled_NV = scaled_NV / temperature
        all_NV = torch.log_softmax(scaled_NV, dim=-1)
        del scaled_NV
        logprobs_N = all_NV.gather(1, ids_N[:, None]).squeeze(1)
        entropies_N = -all_NV.exp().mul_(all_NV).sum(-1)
        ctx.save_for_backward(all_NV, ids_N)
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _entropies: Tensor) -> tuple[Tensor, None, None]:
        if ctx.in_one_reading:
            from cleaner_rl.learner.triton_logprobs import gradient_in_place

            logits_NV, ids_N, sums_N = ctx.saved_tensors
            gradient_NV = gradient_in_place(logits_NV, ids_N, sums_N, grad_N, ctx.temperature)
            return gradient_NV, None, None
        all_NV, ids_N = ctx.saved_tensors
        gradient_NV = all_NV.exp_().mul_(-grad_N[:, None])
        gradient_NV.scatter_add_(1, ids_N[:, None], grad_N[:, None])
        if ctx.temperature != 1.0:
            gradient_NV /= ctx.temperature
        return gradient_NV.to(ctx.dtype), None, None
