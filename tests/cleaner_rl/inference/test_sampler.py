"""The sampler: tokens, log-probabilities and limits."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig

from cleaner_rl.errors import PolicyError
from cleaner_rl.inference import attention as row_attention
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.inference.sampling import (
    Request,
    inverse,
    inverse_by_blocks,
    nucleus,
    sample_tokens,
)

CONTEXTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [5, 6]]


def ids(turns):
    return [turn.tokens.ids for turn in turns]


@pytest.mark.parametrize("limits", [[20] * 4, [1, 30, 2, 30], [30, 1, 1, 25]])
def test_logprobs_are_those_of_the_model(toy_policy, limits):
    # Uneven limits make rows leave the batch, and the others move up.
    turns = Sampler(toy_policy, temperature=0.8).sample(CONTEXTS, limits)
    for context, turn in zip(CONTEXTS, turns, strict=True):
        row = torch.tensor([[*context, *turn.tokens.ids]])
        logits = toy_policy.model(row).logits[0, len(context) - 1 : -1] / 0.8
        expected = logits.log_softmax(-1).gather(1, row[0, len(context) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(turn.tokens.logprobs), expected)


def test_seed_reproduces_the_turns(toy_policy):
    sampler = Sampler(toy_policy, seed=1)
    first = ids(sampler.sample(CONTEXTS, [20] * 4))
    second = ids(sampler.sample(CONTEXTS, [20] * 4))
    sampler.reseed(1)
    assert ids(sampler.sample(CONTEXTS, [20] * 4)) == first != second


def test_limits_are_kept_and_reported(toy_policy):
    turns = Sampler(toy_policy).sample(CONTEXTS, [1, 2, 3, 4])
    for limit, turn in zip([1, 2, 3, 4], turns, strict=True):
        assert len(turn.tokens) <= limit
        assert turn.truncated == (turn.tokens.stop_length == 0)


def test_a_turn_ends_at_the_stop_token(toy_policy):
    turns = Sampler(toy_policy, seed=2).sample(CONTEXTS * 50, [200] * 200)
    stop = toy_policy.codec.stop_ids
    ended = [turn for turn in turns if not turn.truncated]
    assert ended
    for turn in ended:
        assert turn.tokens.ids[-1] in stop
        assert not set(turn.tokens.ids[:-1]) & set(stop)
        assert turn == toy_policy.decode(turn.tokens.ids[:-1])


def test_batches_smaller_than_the_input_serve_everyone(toy_policy):
    turns = Sampler(toy_policy, max_batch=3).sample(CONTEXTS * 2, [5] * 8)
    assert len(turns) == 8 and all(len(turn.tokens) for turn in turns)


def test_nucleus_keeps_the_smallest_set_of_that_mass():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert nucleus(probabilities, 0.7)[0].tolist() == pytest.approx([0, 0.5, 0, 0.25])
    assert nucleus(probabilities, 0.5)[0].tolist() == pytest.approx([0, 0.5, 0, 0])


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"top_p": 0}, {"top_p": 1.1}])
def test_bad_settings_are_refused(toy_policy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampler(toy_policy, **wrong)


def turns_of(sampler, requests):
    """Ids of each request's turn."""
    for request in requests:
        sampler.submit(request)
    turns = {}
    while sampler.busy:
        turns.update(sampler.advance())
    return {key: turn.tokens.ids for key, turn in turns.items()}


def conversation(key, turn=0, before=(), limit=20):
    ids = [*before, 20 + key, 21, 22 + turn, *range(30, 34 + key)]
    return Request(key, ids, limit, (7, key, turn))


@pytest.mark.parametrize("options", [{"max_batch": 1}, {"max_batch": 3}, {"poll_every": 3}])
def test_a_turn_is_the_same_in_any_batch(toy_policy, options):
    requests = [conversation(key) for key in range(9)]
    together = turns_of(Sampler(toy_policy), requests)
    assert turns_of(Sampler(toy_policy, **options), requests[::-1]) == together


def test_padded_passes_give_the_same_turns(toy_policy):
    requests = [conversation(key) for key in range(9)]
    padded = Sampler(toy_policy, max_batch=5)
    padded._graphs.padded = True  # as on CUDA
    assert turns_of(padded, requests) == turns_of(Sampler(toy_policy), requests)
    assert (padded._scheduler.cache.rows, padded._scheduler.cache.cells) == (5, 256)


def test_padding_keeps_to_the_budget(toy_policy):
    tight = Sampler(toy_policy, max_batch=20, cache_tokens=3 * 256)
    tight._graphs.padded = True
    requests = [conversation(key) for key in range(9)]
    assert turns_of(tight, requests) == turns_of(Sampler(toy_policy), requests)
    assert tight._scheduler.cache.rows * tight._scheduler.cache.cells <= 3 * 256


def test_a_freed_place_is_taken_at_once(toy_policy):
    sampler = Sampler(toy_policy, max_batch=2)
    limits = [1, 30, 1, 1]
    for key, limit in enumerate(limits):
        sampler.submit(conversation(key, limit=limit))
    ended = [[key for key, _ in sampler.advance()] for _ in range(3)]
    assert ended == [[0], [2], [3]]


def test_prompts_beyond_a_prefill_pass_are_let_in_by_the_next(toy_policy, monkeypatch):
    monkeypatch.setattr("cleaner_rl.inference.scheduler._PREFILL_TOKENS", 100)
    sampler = Sampler(toy_policy, max_batch=40)
    sampler._graphs.padded = True
    for key in range(40):
        sampler.submit(Request(key, [20 + key, *range(30, 39)], 40, (key,)))
    counts = []
    for _ in range(4):
        sampler.advance()
        counts.append(sampler.stats.prefilled)
        assert sampler._scheduler.cache.rows == 40
    assert counts == [90, 180, 270, 360]


def test_a_prompt_is_prefilled_once_for_its_group(toy_policy):
    sampler = Sampler(toy_policy, max_batch=3)
    turns_of(sampler, [Request(key, list(range(20, 60)), 5, (key,)) for key in range(8)])
    assert (sampler.stats.prefilled, sampler.stats.reused) == (39, 7 * 39)


def test_all_of_a_group_get_the_models_logprobs(toy_policy):
    prompt = list(range(20, 32))
    turns = Sampler(toy_policy).sample([prompt] * 5, [8] * 5)
    for turn in turns:
        row = torch.tensor([[*prompt, *turn.tokens.ids]])
        logits = toy_policy.model(row).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(turn.tokens.logprobs), expected)


def attend_by_formula(q_THD, k_THD, v_THD, q_ends, k_ends, longest, scaling, window, k_used):
    """As torch's flash attention, which needs a GPU, a sequence at a time."""
    pieces = []
    for row, used in enumerate(k_used.tolist()):
        q = q_THD[q_ends[row] : q_ends[row + 1]]
        k, v = (x[k_ends[row] : k_ends[row] + used].float() for x in (k_THD, v_THD))
        assert len(q) <= longest[0] and used <= longest[1]
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        at = torch.arange(used - len(q), used)[:, None]
        seen = torch.arange(used) <= at
        if window is not None:
            seen &= torch.arange(used) > at - window
        scores = torch.einsum("qhd,khd->hqk", q.float(), k) * (scaling or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        pieces.append(torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype))
    return torch.cat(pieces)


@pytest.mark.parametrize("config", [None, MistralConfig])
def test_all_rows_in_one_call_give_the_same_turns(toy_policy, monkeypatch, config):
    if config is not None:  # with a window
        toy_policy.model = AutoModelForCausalLM.from_config(
            config(
                vocab_size=toy_policy.model.config.vocab_size,
                **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
                **{"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 6},
            )
        ).eval()
    requests = [conversation(key) for key in range(9)]
    expected = turns_of(Sampler(toy_policy), requests)
    monkeypatch.setattr(row_attention, "has_varlen", lambda *_: True)
    monkeypatch.setattr(row_attention, "varlen", attend_by_formula)
    as_on_cuda = Sampler(toy_policy, max_batch=5, poll_every=3)
    as_on_cuda._graphs.padded = as_on_cuda._reads_what_is_held = True
    assert turns_of(as_on_cuda, requests) == expected


@pytest.mark.parametrize("vocabulary", [5, 256, 1000])
def test_blocks_find_what_the_running_sum_finds(vocabulary):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(400, vocabulary, generator=generator)
    weights[torch.rand(weights.shape, generator=generator) < 0.7] = 0
    weights[:, 3] += 1e-3
    numbers = torch.rand(400, dtype=torch.float64, generator=generator)
    numbers[:2] = torch.tensor([0.0, 1 - 2**-53])
    found = inverse_by_blocks(weights, numbers)
    assert found.tolist() == inverse(weights, numbers).tolist()
    assert (weights.gather(1, found) > 0).all()
    weights[0] = torch.nan
    assert inverse_by_blocks(weights, numbers).max() < vocabulary


def test_rows_outlast_new_weights_where_they_are_captured(toy_policy):
    sampler = Sampler(toy_policy, max_batch=5, cache_tokens=4 * 5 * 256)
    sampler._graphs.padded = True
    requests = [conversation(key) for key in range(9)]
    expected = turns_of(sampler, requests)
    held = sampler._scheduler.cache._keys[0]
    sampler.reset()
    assert turns_of(sampler, requests) == expected
    assert sampler._scheduler.cache._keys[0] is held
    sampler._scheduler.budget -= 1  # more than a quarter of it
    sampler.reset()
    assert not sampler._scheduler.cache._keys
    assert turns_of(sampler, requests) == expected


def test_rows_that_were_long_do_no_harm_to_a_short_batch(toy_policy):
    padded, plain = Sampler(toy_policy, max_batch=4, cache_tokens=1600), Sampler(toy_policy)
    padded._graphs.padded = True
    long = [Request(key, [20 + key, *[30] * 300], 5, (key,)) for key in range(3)]
    short = [conversation(key) for key in range(6, 10)]
    for sampler in (padded, plain):
        turns_of(sampler, long)
    assert turns_of(padded, short) == turns_of(plain, short)
    assert padded._scheduler.cache.cells == 256


def test_a_later_turn_prefills_only_what_is_new(toy_policy):
    sampler = Sampler(toy_policy)
    first = conversation(0)
    ids = turns_of(sampler, [first])[0]
    before = sampler.stats.prefilled
    turns_of(sampler, [Request(0, [*first.ids, *ids, 40, 41, 42], 5, (1,))])
    # The turn's last token was never an input, and the context's last one is decoded.
    assert sampler.stats.prefilled - before == 1 + 3 - 1


@pytest.mark.parametrize("kept", [3, 0], ids=["shallow", "deep"])
def test_a_rollback_prefills_only_what_it_changes(toy_policy, kept):
    """Of a lookahead the error alone; after the splice the new call and its output alone. Deep
    splices keep none of the failed turn, shallow ones its reasoning."""
    sampler = Sampler(toy_policy)
    prompt, error, output = [5, 6, 7, 8], [21, 22, 23], [31, 32]

    def sampled(context):
        before = sampler.stats.prefilled
        ids = turns_of(sampler, [Request("episode", context, 6, (len(context),))])["episode"]
        return list(ids), sampler.stats.prefilled - before

    failed, _ = sampled(prompt)
    _, computed = sampled([*prompt, *failed, *error])
    # The last token of a turn is computed with what follows; the last of a context when decoding.
    assert computed == 1 + len(error) - 1
    call = [id_ + 1 for id_ in failed[kept:]]  # differs from its first token on
    _, computed = sampled([*prompt, *failed[:kept], *call, *output])
    assert computed == len(call) + len(output) - 1


def test_a_cropped_cache_gives_the_logits_of_a_fresh_one(toy_policy):
    first = conversation(0)
    spliced = Request(0, [*first.ids, 50, 51, 52], 10, (1,))
    used, fresh = Sampler(toy_policy), Sampler(toy_policy)
    turns_of(used, [first])
    logprobs = []
    for sampler in (used, fresh):
        sampler.submit(spliced)
        while sampler.busy:
            for _, turn in sampler.advance():
                logprobs.append(torch.tensor(turn.tokens.logprobs))
    assert used.stats.reused == len(first.ids)
    torch.testing.assert_close(*logprobs)


def test_a_small_budget_costs_time_and_changes_nothing(toy_policy):
    def play(sampler):
        first = [conversation(key, limit=90) for key in range(6)]
        ids = turns_of(sampler, first)
        return ids, turns_of(
            sampler,
            [conversation(r.key, 1, [*r.ids, *ids[r.key]]) for r in first],
        )

    # Four turns begin, and lose their rows when their tokens no longer fit side by side.
    roomy, tight = Sampler(toy_policy), Sampler(toy_policy, cache_tokens=256)
    assert play(roomy) == play(tight)
    assert roomy.stats.preempted == 0 < tight.stats.preempted


def test_a_conversation_beyond_the_budget_is_refused(toy_policy):
    with pytest.raises(PolicyError, match="raise --cache-tokens"):
        Sampler(toy_policy, cache_tokens=64).submit(conversation(0, limit=100))


def test_weights_that_are_not_finite_are_reported(toy_policy):
    with torch.no_grad():
        toy_policy.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match="not finite"):
        Sampler(toy_policy).sample(CONTEXTS, [3] * 4)


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_turns_are_sampled_from_the_current_weights(toy_policy, dtype, atol):
    attention = toy_policy.model.config._attn_implementation
    sampler = Sampler(toy_policy, dtype=dtype)
    before = sampler.sample(CONTEXTS, [4] * 4)
    with torch.no_grad():
        for parameter in toy_policy.model.parameters():
            parameter.mul_(1.5)
    sampler.reseed(0)
    turns = sampler.sample(CONTEXTS, [4] * 4)
    assert ids(before) != ids(turns)
    for context, turn in zip(CONTEXTS, turns, strict=True):
        row = torch.tensor([[*context, *turn.tokens.ids]])
        logits = toy_policy.model(row).logits[0, len(context) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, row[0, len(context) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(turn.tokens.logprobs), expected, rtol=0, atol=atol)
    assert toy_policy.model.config._attn_implementation == attention


def test_top_k_draws_from_the_most_probable():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).repeat(200, 1)
    numbers = torch.linspace(0, 1, 201, dtype=torch.float64)[:-1]
    ids, _ = sample_tokens(logits, numbers, 1.0, 1.0, top_k=2)
    assert set(ids.tolist()) == {1, 3}


SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SMALL, sliding_window=5),
        Gemma2Config(**SMALL, sliding_window=5, attn_logit_softcapping=2.0),
    ],
    ids=["windows", "windows and capped scores"],
)
def test_other_kinds_of_attention_give_the_models_logprobs(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    policy = SimpleNamespace(
        model=model,
        codec=SimpleNamespace(stop_ids=frozenset({59})),
        device=model.device,
        context_length=200,
        decode=str,
        name="small",
    )
    turns = Sampler(policy, max_batch=3).sample(CONTEXTS, [12, 3, 12, 9])
    for context, turn in zip(CONTEXTS, turns, strict=True):
        row = torch.tensor([[*context, *turn.tokens.ids]])
        logits = model(row).logits[0, len(context) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, row[0, len(context) :, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(turn.tokens.logprobs), expected, rtol=1e-4, atol=1e-5
        )
