"""SAAR as a scripted agent meets it: what is shown next, what is kept, what is counted."""

import pytest
from scripted import STOP, call, decode, sampled

from cleaner_env import CodeToolEnv, Completion, SAARWrapper, SandboxError
from cleaner_env.saar import exhausted_note

TASK = {"prompt": "What is 6*7?", "answer": "42"}
BUG = "x = 6\nprint(x * y)"
BUG_2 = "x = 6\nprint(x * z)"
BUG_3 = "x = 6\nprint(x * w)"
BUG_4 = "x = 6\nprint(x * v)"
FIX = "x = 6\nprint(x * 7)"
OTHER = "from math import prod\nfor n in [prod((6, 7))]:\n    print(n)"
ANSWER = r"The answer is \boxed{42}."


@pytest.fixture
def make(sandbox):
    def make(max_length=None, max_turns=16, **saar):
        env = CodeToolEnv(
            [TASK],
            sandbox=sandbox,
            system_prompt=None,
            max_length=max_length,
            max_turns=max_turns,
        )
        wrapped = SAARWrapper(env, **saar)
        wrapped.reset(seed=0)
        return wrapped

    return make


def play(env, *actions):
    for action in actions:
        result = env.step(action)
    return result


def shown(result):
    """Roles and contents that the agent is shown next."""
    return [(message["role"], message["content"]) for message in result[4]["messages"]]


QUESTION = ("user", TASK["prompt"])


def test_success_is_committed(make):
    env = make()
    result = play(env, call(FIX))
    assert not result[4]["lookahead"]
    assert shown(result) == [QUESTION, ("assistant", call(FIX)), ("tool", "42")]


def test_lookahead_shows_the_failed_turn_and_its_error(make):
    result = play(make(), call(BUG))
    assert result[4]["lookahead"]
    assert shown(result)[1] == ("assistant", call(BUG))
    assert "NameError: name 'y' is not defined" in shown(result)[2][1]


def test_shallow_splice_keeps_the_reasoning_and_drops_the_error(make):
    env = make()
    result = play(env, call(BUG, "First.\n"), call(FIX, "Sorry.\n"))
    assert shown(result) == [QUESTION, ("assistant", call(FIX, "First.\n")), ("tool", "42")]
    assert env.episode.rollbacks[0].decision == "shallow"
    assert env.episode.rollbacks[0].outcome == "recovered"


def test_deep_splice_replaces_the_reasoning_too(make):
    env = make()
    result = play(env, call(BUG, "First.\n"), call(OTHER, "Otherwise.\n"))
    assert shown(result) == [QUESTION, ("assistant", call(OTHER, "Otherwise.\n")), ("tool", "42")]
    assert env.episode.rollbacks[0].decision == "deep"


def test_second_lookahead_shows_only_the_newest_attempt(make):
    result = play(make(), call(BUG, "First.\n"), call(BUG_2, "Second.\n"))
    assert result[4]["lookahead"]
    assert shown(result)[1] == ("assistant", call(BUG_2, "First.\n"))
    assert len(shown(result)) == 3
    assert "'z'" in shown(result)[2][1]


def test_no_call_in_the_lookahead_keeps_the_failure(make):
    env = make()
    result = play(env, call(BUG), ANSWER)
    assert [turn.text for turn in env.episode.turns] == [call(BUG), ANSWER]
    assert result[2] and env.episode.rollbacks[0].outcome == "gave_up"
    assert env.episode.rollbacks[0].position == 0


def test_exhausted_retries_keep_the_last_attempt_with_a_note(make):
    env = make()
    result = play(env, call(BUG), call(BUG_2), call(BUG_3), call(BUG_4))
    assert not result[4]["lookahead"]
    assert [turn.text for turn in env.episode.turns] == [call(BUG_4)]
    assert shown(result)[2][1].endswith(exhausted_note(4))
    assert result[0] == shown(result)[2][1]
    assert [record.outcome for record in env.episode.rollbacks] == ["retry", "retry", "exhausted"]


def test_the_note_counts_in_the_length_budget(make):
    env = make(max_length=2000)
    result = play(env, call(BUG), call(BUG_2), call(BUG_3), call(BUG_4))
    used = sum(len(text) for role, text in shown(result) if role != "user")
    assert result[4]["remaining"] == 2000 - used


def test_one_retry_used_up_adds_no_note(make):
    result = play(make(max_retries=1), call(BUG), call(BUG_2))
    assert not result[4]["lookahead"]
    assert result[0].endswith("name 'z' is not defined")


def test_after_exhaustion_rollback_is_off(make):
    env = make(max_retries=1)
    result = play(env, call(BUG), call(BUG_2), call(BUG_3))
    assert not result[4]["lookahead"]
    assert len(env.episode.turns) == 2


def test_retries_restart_at_the_next_position(make):
    env = make(max_retries=1)
    result = play(env, call(BUG), call(FIX), call(BUG))
    assert result[4]["lookahead"]
    play(env, call(FIX))
    assert env.episode.stats.recovered == 2


def test_malformed_call_is_rolled_back(make):
    env = make()
    broken = call(FIX).replace("}}", "}")
    result = play(env, broken)
    assert result[4]["lookahead"] and result[0].startswith("ToolCallError")
    result = play(env, call(FIX))
    assert shown(result)[1:] == [("assistant", call(FIX)), ("tool", "42")]
    assert env.episode.rollbacks[0].decision == "shallow"


def test_probability_zero_never_rolls_back(make):
    env = make(rollback_probability=0.0)
    result = play(env, call(BUG))
    assert not result[4]["lookahead"]
    play(env, call(FIX))
    assert [turn.text for turn in env.episode.turns] == [call(BUG), call(FIX)]
    assert env.episode.raw_turns == env.episode.turns


def test_rollback_draws_follow_the_seed(make):
    env = make(rollback_probability=0.5)

    def draws(seed):
        env.reset(seed=seed)
        flags = []
        for _ in range(20):
            env.reset()
            flags.append(env.episode.rollback)
        return flags

    assert draws(1) == draws(1)
    assert 0 < sum(draws(1)) < 20


def test_turn_budget_leaves_no_room_for_a_lookahead(make):
    result = play(make(max_turns=1), call(BUG))
    assert result[3] and not result[4]["lookahead"]


def test_lookahead_over_the_length_budget_restores_and_truncates(make):
    env = make(max_length=600)
    before = shown(play(env, call(BUG)))
    result = play(env, call("#" * 600))
    assert result[3] and not result[2]
    assert shown(result) == before
    assert env.episode.rollbacks[0].outcome == "cut_off"
    assert len(env.episode.raw_turns) == 2


def test_cut_off_turn_in_the_lookahead_restores_and_truncates(make):
    env = make()
    before = shown(play(env, call(BUG)))
    result = play(env, Completion("I was going to", truncated=True))
    assert result[3]
    assert shown(result) == before


def test_raw_turns_keep_what_was_sent(make):
    env = make()
    sent = [call(BUG, "First.\n"), call(BUG_2, "Second.\n"), call(FIX, "Third.\n"), ANSWER]
    play(env, *sent)
    assert [turn.text for turn in env.episode.raw_turns] == sent
    assert [turn.retry for turn in env.episode.raw_turns] == [0, 1, 2, 0]


def test_statistics(make):
    env = make()
    play(env, *map(sampled, [call(BUG), call(BUG_2), call(FIX), call(FIX), ANSWER]))
    stats = env.episode.stats
    assert (stats.calls, stats.failures, stats.turns) == (4, 2, 3)
    assert (stats.first_attempt_calls, stats.first_attempt_successes) == (2, 1)
    assert (stats.triggered, stats.recovered, stats.shallow, stats.deep) == (1, 1, 2, 0)
    kept = len(call(FIX)) * 2 + len(ANSWER) + 3
    assert stats.tokens_sampled - stats.tokens_discarded == kept


def test_spliced_tokens_spell_the_purified_turn(make):
    env = make()
    play(env, sampled(call(BUG, "First.\n"), -1.0), sampled(call(FIX, "Second.\n"), -2.0))
    turn = env.episode.turns[0]
    assert turn.completion.tokens.text == turn.text == call(FIX, "First.\n")
    first = len("First.\n")
    assert set(turn.completion.tokens.logprobs[:first]) == {-1.0}
    assert set(turn.completion.tokens.logprobs[first:]) == {-2.0}
    assert turn.completion.tokens.grafted == (False,) * first + (True,) * (
        len(turn.completion.tokens) - first
    )


def test_similarity_on_call_counts_the_json_around_the_code(make):
    scores = {}
    for on in ("code", "call"):
        env = make(similarity_on=on)
        play(env, call("a"), call("print(1)"))
        scores[on] = env.episode.rollbacks[0].similarity
    assert scores["code"] < 0.5 < scores["call"]


def test_on_call_turns_are_compared_from_the_call_to_the_end_marker_as_the_release_does(make):
    compared = []

    def similarity(failed, corrected):
        compared.append((failed, corrected))
        return 1.0

    env = make(similarity=similarity, similarity_on="call")
    play(env, sampled(call(BUG) + "\nAfter it."), sampled(call(FIX)))
    failed = call(BUG, reasoning="") + "\nAfter it."
    end = decode([STOP])
    assert end and compared == [(failed + end, call(FIX, reasoning="") + end)]


def test_on_call_turns_without_tokens_are_compared_without_the_marker(make):
    compared = []
    env = make(similarity=lambda *parts: compared.append(parts) or 1.0, similarity_on="call")
    env.reset(seed=0)
    env.step(call(BUG) + "\nAfter it.")
    env.step(call(FIX))
    assert compared == [(call(BUG, reasoning="") + "\nAfter it.", call(FIX, reasoning=""))]


def test_any_function_may_be_the_similarity(make):
    env = make(similarity=lambda failed, corrected: 0.0)
    play(env, call(BUG), call(FIX))
    assert env.episode.rollbacks[0].decision == "deep"


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.5},
        {"max_retries": -1},
        {"rollback_probability": 2},
        {"similarity_on": "text"},
        {"similarity": "cosine"},
        {"mode": "on"},
    ],
)
def test_bad_settings_are_refused(make, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)


def test_off_keeps_failed_calls(make):
    env = make(mode="off")
    assert not play(env, call(BUG))[4]["lookahead"]
    play(env, call(FIX))
    assert [turn.text for turn in env.episode.turns] == [call(BUG), call(FIX)]
    assert not env.episode.rollback


def test_shallow_only_keeps_the_reasoning_of_unlike_calls(make):
    env = make(mode="shallow-only")
    play(env, call(BUG, "First.\n"), call(OTHER, "Otherwise.\n"))
    assert [turn.text for turn in env.episode.turns] == [call(OTHER, "First.\n")]


def test_deep_only_replaces_the_reasoning_of_like_calls(make):
    env = make(mode="deep-only")
    play(env, call(BUG, "First.\n"), call(FIX, "Second.\n"))
    assert [turn.text for turn in env.episode.turns] == [call(FIX, "Second.\n")]
    assert env.episode.rollbacks[0].similarity > 0.5


def test_mask_failed_keeps_failed_calls_and_marks_them(make):
    env = make(mode="mask-failed")
    result = play(env, call(BUG), call(FIX))
    assert len(shown(result)) == 5 and not result[4]["lookahead"]
    assert [turn.masked for turn in env.episode.turns] == [True, False]


def test_masks_follow_the_probability(make):
    env = make(mode="mask-failed", rollback_probability=0.0)
    play(env, call(BUG))
    assert not env.episode.turns[0].masked


def test_the_draws_are_the_same_in_every_mode(make):
    def draws(mode):
        env = make(mode=mode, rollback_probability=0.5)
        flags = []
        for _ in range(10):
            env.reset()
            flags.append(env.episode.rollback)
        return flags

    assert draws("saar") == draws("deep-only")


@pytest.mark.parametrize("value", [float("nan"), -0.1, 2])
def test_a_similarity_out_of_range_is_refused_and_leaves_the_lookahead_open(make, value):
    values = [value, 1.0]
    env = make(similarity=lambda failed, corrected: values.pop(0))
    play(env, call(BUG))
    with pytest.raises(ValueError, match=r"must return a number in \[0, 1\]"):
        play(env, call(FIX))
    assert play(env, call(FIX))[0] == "42"
    assert env.episode.rollbacks[0].retry == 1


def test_a_sandbox_fault_in_the_lookahead_leaves_it_open(make, monkeypatch):
    env = make()
    before = shown(play(env, call(BUG)))

    def broken(turn):
        raise SandboxError("no worker")

    with monkeypatch.context() as patched:
        patched.setattr(env.unwrapped, "_execute", broken)
        with pytest.raises(SandboxError):
            play(env, call(FIX))
    assert [(m["role"], m["content"]) for m in env.episode.messages] == before
    assert play(env, call(FIX))[0] == "42"
    assert (env.episode.rollbacks[0].retry, len(env.episode.raw_turns)) == (1, 2)
