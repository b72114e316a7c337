"""Agreement: a model's own log-probabilities against those of the sampler and of packed rows.

Architectures differ in more than a decoder's layers: windows that only a mask knows, logits scaled
behind the head, layers that do not pass on what attention needs. What would be computed wrong here
is found by trying, and refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cleaner_rl.errors import PolicyError
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.learner.logprobs import token_logprobs
from cleaner_rl.learner.packing import Pack
from cleaner_rl.models.policy import Policy, rope_kinds

_TOLERANCE = 1e-2
"""Nats by which log-probabilities may differ."""
_LENGTHS = (
    *("sliding_window", "sliding_window_size", "window_size", "attention_window_size"),
    *("attention_chunk_size", "original_max_position_embeddings"),
)
"""Lengths, in configurations and modules, beyond which a model may compute something else."""
_SHORT, _SAMPLES = 5, (4, 9, 14)
"""What stands in for such a length, and the lengths of samples on both sides of it."""
_OTHER_MODEL = "; use a Qwen2.5, Qwen3, Llama or similar model"


def check_agreement(
    policy: Policy, longest: int, trained: bool = True, shared: bool = False
) -> None:
    """Check that sequences of up to ``longest`` tokens are sampled, and trained, as the model says;
    ``shared``: also with prefixes that are computed once for several samples.

    Raises:
        PolicyError: the model is not computed right here.
    """
    checks = [("be sampled here", _sampling_error, _OTHER_MODEL)]
    if trained:
        checks.append(("be trained here", partial(_packing_error, share=False), _OTHER_MODEL))
    if shared:
        remedy = "; use --no-share-prefixes"
        checks.append(("share prefixes", partial(_packing_error, share=True), remedy))
    for done, error, remedy in checks:
        refused = f"{policy.name} (a {type(policy.model).__name__}) cannot {done}: "
        for limit in (0, longest):
            try:
                with torch.no_grad(), _shortened(policy.model, limit) as lengths:
                    off = error(policy)
            except torch.OutOfMemoryError:
                raise
            except Exception as cause:  # of any kind: the model's own code raises it
                raise PolicyError(f"{refused}{str(cause) or repr(cause)}{remedy}") from cause
            if not off < _TOLERANCE:
                why = "as with scaled or capped logits, sinks, or layers other than attention"
                if lengths:
                    why = f"beyond {min(lengths)} tokens; keep prompt and response within them"
                refused += f"its log-probabilities are off by {off:.2g} nats, {why}"
                raise PolicyError(refused + remedy)


@contextmanager
def _shortened(model: Any, longest: int) -> Iterator[list[int]]:
    """Inside the block, lengths below ``longest`` are ``_SHORT``; gives what they were."""
    owners = (model.config, model.config.get_text_config(), *model.modules())
    places: list[Any] = [*map(vars, owners), *rope_kinds(model.config)]
    found = [
        (place, name, place[name])
        for place in places
        for name in _LENGTHS
        if type(place.get(name)) is int and place[name] < longest
    ]
    for place, name, _ in found:
        place[name] = _SHORT
    try:
        yield [length for _, _, length in found]
    finally:
        for place, name, length in reversed(found):
            place[name] = length


def _packing_error(policy: Policy, share: bool) -> float:
    """Largest difference, in nats, of log-probabilities of packed samples, which form trees."""
    short, middle, long = (tuple(_ids(policy, count)) for count in _SAMPLES)
    branches = [long[:3] + middle, long[:8] + short, long[:8] + short[1:]]
    samples = []
    for ids in (short, middle, long, *branches):
        zeros, nothing = (0.0,) * len(ids), (False,) * len(ids)
        samples.append(Sample(ids, nothing, zeros, zeros, nothing))
    row = Pack.of(samples, policy.device, share=share)
    parts = token_logprobs(policy.model, row)[0].split([len(sample) for sample in samples])
    return max(
        _difference(policy, part_T[1:], sample.ids)
        for part_T, sample in zip(parts, samples, strict=True)
    )


def _sampling_error(policy: Policy) -> float:
    """The same of turns that are sampled side by side."""
    contexts = [_ids(policy, n) for n in _SAMPLES]
    turns = Sampler(policy, cache_tokens=4096).sample(contexts, [_SHORT] * len(contexts))
    tokens = [turn.tokens for turn in turns if turn.tokens is not None]
    return max(
        _difference(policy, torch.tensor(of_turn.logprobs), [*ids, *of_turn.ids])
        for ids, of_turn in zip(contexts, tokens, strict=True)
    )


def _ids(policy: Policy, count: int) -> list[int]:
    vocabulary = policy.model.config.get_text_config().vocab_size
    return [(7 * count + 13 * i) % vocabulary for i in range(count)]


def _difference(policy: Policy, logprobs_T: Tensor, ids: Any) -> float:
    """Between the last tokens' log-probabilities and those from the model's own logits."""
    ids_1T = torch.tensor([ids], device=policy.device)
    logits_TV = policy.model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    plain_T = logits_TV.log_softmax(-1).gather(1, ids_1T[0, 1:, None])[-len(logprobs_T) :, 0]
    return float((logprobs_T.to(plain_T.device) - plain_T).abs().nan_to_num(torch.inf).max())
