"""Log-probabilities of the tokens of a pack, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cleaner_rl.attention import PACKED
from cleaner_rl.packing import Pack
from cleaner_rl.samples import Sample


def token_logprobs(
    model: Any, pack: Pack, temperature: float = 1.0, chunk: int = 4096
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token given those before it in its sample, and the entropy there.

    Args:
        model: a transformers causal language model.
        pack: the samples.
        temperature: the one that the tokens were sampled at; the logits are divided by it.
        chunk: tokens whose logits are held at a time; they are computed anew for the gradient.

    Returns:
        logprobs_T and entropies_T in float32 nats, both 0 for the first token of each sample, which
        nothing predicts. The entropies carry no gradient.
    """
    hidden_TD = _hidden_states(model, pack)
    head = model.get_output_embeddings()
    starts_S = pack.boundaries_S1[:-1].long()
    predicted_T = torch.ones_like(pack.mask_T)
    predicted_T[starts_S] = False
    target_N = predicted_T.nonzero().squeeze(1)
    logprobs, entropies = [], []
    for index_N in target_N.split(chunk):
        piece = checkpoint(
            _chunk_logprobs,
            head,
            hidden_TD[index_N - 1],
            pack.ids_T[index_N],
            temperature,
            use_reentrant=False,
        )
        logprobs.append(piece[0])
        entropies.append(piece[1])
    zeros_T = torch.zeros(len(pack.ids_T), dtype=torch.float32, device=hidden_TD.device)
    return (
        zeros_T.index_put((target_N,), torch.cat(logprobs)),
        zeros_T.index_put((target_N,), torch.cat(entropies)),
    )


@torch.no_grad()
def packing_error(model: Any) -> float:
    """Largest difference, in nats, between packed and plain log-probabilities of two short samples.

    Models whose output is more than their head on their last hidden state (scaled or capped logits)
    or whose attention is more than the plain one show here.
    """
    vocabulary = model.config.get_text_config().vocab_size
    samples = [
        Sample(ids, (False,) * n, (0.0,) * n, (0.0,) * n, (False,) * n)
        for n in (9, 14)
        for ids in [tuple((7 * n + 13 * i) % vocabulary for i in range(n))]
    ]
    pack = Pack.of(samples, model.device)
    packed_T, _ = token_logprobs(model, pack)
    errors = []
    for begin, sample in zip(pack.boundaries_S1.tolist(), samples, strict=False):
        ids_1T = torch.tensor([sample.ids], device=model.device)
        plain_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        plain_T = plain_TV.gather(1, ids_1T[0, 1:, None])[:, 0]
        errors.append((packed_T[begin + 1 : begin + len(sample)] - plain_T).abs().max())
    return float(torch.stack(errors).max())


def _hidden_states(model: Any, pack: Pack) -> Tensor:
    """[T, D] last hidden states of the packed row."""
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED)
    try:
        output = model.base_model(
            input_ids=pack.ids_T[None],
            position_ids=pack.positions_T[None],
            use_cache=False,
            boundaries_S1=pack.boundaries_S1,
            longest=pack.longest,
        )
    finally:
        model.set_attn_implementation(before)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _chunk_logprobs(
    head: Any, hidden_ND: Tensor, ids_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    all_NV = torch.log_softmax(head(hidden_ND).float() / temperature, dim=-1)
    logprobs_N = all_NV.gather(1, ids_N[:, None]).squeeze(1)
    with torch.no_grad():
        entropies_N = -(all_NV.exp() * all_NV).sum(-1)
    return logprobs_N, entropies_N
