"""SAAR against a plain model of the paper's rules, over random scripted episodes.

The model below is written from the rules alone: it knows nothing of environments or wrappers.
Programs are words: ``ok...`` prints itself, anything else fails with an error that names it.
"""

from collections import Counter
from difflib import SequenceMatcher

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import call

from cleaner_env import CodeToolEnv, HermesFormat, SAARWrapper
from cleaner_env.saar import exhausted_note
from sandbox import Result, Status

MALFORMED = "<tool_call>{}</tool_call>"


class Words:
    """Runs programs that are words."""

    def run(self, code):
        if code.startswith("ok"):
            return Result(Status.OK, stdout=f"{code}\n")
        return Result(Status.ERROR, traceback=f"WordError: {code}\n", error_class="WordError")


def observe(text):
    """Whether a turn's call works, and what the tool answers."""
    parsed = HermesFormat().parse(text)
    if parsed.code is None:
        return False, f"ToolCallError: {parsed.error}"
    return parsed.code.startswith("ok"), (
        parsed.code if parsed.code.startswith("ok") else f"WordError: {parsed.code}"
    )


def has_call(text):
    return "<tool_call>" in text


def compared(old, new):
    """What similarity is taken of: programs where both can be read, else blocks."""
    parsed = [HermesFormat().parse(text) for text in (old, new)]
    if all(p.code is not None for p in parsed):
        return [p.code for p in parsed]
    return [p.call for p in parsed]


def model(turns, gamma, retries, max_turns, rollback):
    """The rules: what is shown before each turn, the purified history, and what was counted."""
    script, history, shown, counts = iter(turns), [], [], Counter()
    try:
        while len(history) < max_turns:
            shown.append(list(history))
            attempt, used = next(script), 0
            if not has_call(attempt):
                return shown, [*history, (attempt, None)], counts
            while True:
                works, observation = observe(attempt)
                last = len(history) + 1 == max_turns
                if works or last or not rollback:
                    counts["recovered"] += works and used > 0
                    break
                if used == retries:
                    counts["exhausted"] += used > 0
                    rollback = False
                    if used >= 2:
                        observation += "\n" + exhausted_note(used + 1)
                    break
                shown.append([*history, (attempt, observation)])
                answer = next(script)
                counts["triggered"] += used == 0
                used += 1
                if not has_call(answer):
                    counts["gave_up"] += 1
                    return shown, [*history, (attempt, observation), (answer, None)], counts
                similarity = SequenceMatcher(None, *compared(attempt, answer)).ratio()
                counts["shallow" if similarity >= gamma else "deep"] += 1
                if similarity >= gamma:
                    reasoning = attempt[: attempt.index("<tool_call>")]
                    attempt = reasoning + answer[answer.index("<tool_call>") :]
                else:
                    attempt = answer
            history.append((attempt, observation))
    except StopIteration:
        pass
    return shown, history, counts


def messages(history):
    result = [{"role": "user", "content": "?"}]
    for turn, observation in history:
        result.append({"role": "assistant", "content": turn})
        if observation is not None:
            result.append({"role": "tool", "content": observation})
    return result


words = st.sampled_from(["ok", "ok, well then", "bad", "bad word", "bad words", "worse"])
reasonings = st.sampled_from(["", "First.\n", "Then.\n"])
a_turn = st.one_of(
    st.builds(call, words, reasonings),
    st.builds(lambda reasoning: reasoning + MALFORMED, reasonings),
    st.just(r"\boxed{1}"),
)


@settings(max_examples=1500, deadline=None)
@given(
    turns=st.lists(a_turn, min_size=1, max_size=12),
    gamma=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    retries=st.integers(0, 3),
    max_turns=st.integers(1, 5),
    rollback=st.booleans(),
)
def test_the_wrapper_follows_the_rules(turns, gamma, retries, max_turns, rollback):
    shown, history, counts = model(turns, gamma, retries, max_turns, rollback)
    inner = CodeToolEnv(
        [{"prompt": "?", "answer": "1"}], sandbox=Words(), system_prompt=None, max_turns=max_turns
    )
    env = SAARWrapper(inner, gamma=gamma, max_retries=retries, rollback_probability=float(rollback))
    _, info = env.reset(seed=0)
    seen, played, over = [], 0, False
    while not over and played < len(turns):
        seen.append(info["messages"])
        _, _, terminated, truncated, info = env.step(turns[played])
        played, over = played + 1, terminated or truncated
    assert seen == [messages(history) for history in shown[:played]]
    episode = env.episode
    assert [turn.text for turn in episode.raw_turns] == turns[:played]
    if over or not info["lookahead"]:
        assert info["messages"] == messages(history)
        stats = episode.stats
        assert counts == Counter(
            recovered=stats.recovered,
            exhausted=stats.exhausted,
            triggered=stats.triggered,
            gave_up=stats.gave_up,
            shallow=stats.shallow,
            deep=stats.deep,
        )
        assert stats.triggered == stats.recovered + stats.exhausted + stats.gave_up
