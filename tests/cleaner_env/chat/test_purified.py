"""Episodes as rows of chat messages: what is kept, what is set against what, how a template writes
it."""

import pytest
from scripted import call
from scripted_rollouts import BUNDLED, SCRIPTS, ScriptedSandbox
from transformers import AutoTokenizer

from cleaner_env import CodeToolEnv, SAARWrapper
from cleaner_env.chat import preference_rows, sft_row, worth_imitating

TASK = {"prompt": "What is 6*7?", "answer": "42"}
ANSWER = r"\boxed{42}"
BUG, FIX = call("print(6 * y)", "I run it.\n"), call("print(6 * 7)", "Again.\n")


def play(*turns, **options):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=ScriptedSandbox(), **options))
    env.reset()
    for turn in turns:
        env.step(turn)
    return env.episode


def code(message):
    return [one["function"]["arguments"]["code"] for one in message["tool_calls"]]


def test_a_trajectory_has_the_correction_and_its_result_in_place_of_the_failed_call():
    row = sft_row(play(BUG, FIX, ANSWER))
    assert [message["role"] for message in row["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]
    said, result = row["messages"][2:4]
    assert (said["content"], code(said)) == ("I run it.", ["print(6 * 7)"])
    assert result == {
        "role": "tool",
        "tool_call_id": said["tool_calls"][0]["id"],
        "name": "code_interpreter",
        "content": "42",
    }
    assert row["tools"][0]["function"]["name"] == "code_interpreter"


def test_a_failed_call_is_set_against_its_correction_in_the_context_of_both():
    (row,) = preference_rows(play(FIX, BUG, FIX, ANSWER))
    assert [message["role"] for message in row["prompt"]] == [
        *("system", "user", "assistant", "tool")
    ]
    (chosen,), (rejected,) = row["chosen"], row["rejected"]
    assert (code(chosen), code(rejected)) == (["print(6 * 7)"], ["print(6 * y)"])
    assert chosen["content"] == rejected["content"] == "I run it."  # a shallow splice


def test_every_failed_attempt_at_a_position_is_set_against_what_worked():
    again = call("print(6 * y * 1)", "Once more.\n")
    rows = preference_rows(play(BUG, again, FIX, ANSWER))
    assert [code(row["rejected"][0]) for row in rows] == [["print(6 * y)"], ["print(6 * y * 1)"]]
    assert all(code(row["chosen"][0]) == ["print(6 * 7)"] for row in rows)


@pytest.mark.parametrize(
    "turns", [(FIX, ANSWER), (BUG, ANSWER), (BUG, BUG, BUG, BUG, ANSWER)], ids=str
)
def test_nothing_is_preferred_where_nothing_was_mended(turns):
    assert preference_rows(play(*turns)) == []


def test_a_call_that_could_not_be_read_stays_text():
    (row,) = preference_rows(play("<tool_call>{print(1)}</tool_call>", FIX, ANSWER))
    assert row["rejected"] == [
        {"role": "assistant", "content": "<tool_call>{print(1)}</tool_call>"}
    ]
    messages = sft_row(play("<tool_call>{print(1)}</tool_call>", ANSWER))["messages"]
    assert messages[3]["role"] == "user" and "ToolCallError" in messages[3]["content"]


def test_each_call_of_a_turn_has_an_id_and_a_result():
    two = call("print(6)") + call("print(7)", "")
    messages = sft_row(play(two, ANSWER, max_calls=2))["messages"]
    ids = [one["id"] for one in messages[2]["tool_calls"]]
    assert [message["tool_call_id"] for message in messages[3:5]] == ids
    assert "[call 2 of 2]" in messages[4]["content"]


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        ((FIX, ANSWER), True),
        ((BUG, FIX, ANSWER), True),
        ((FIX, r"\boxed{41}"), False),
        ((BUG, ANSWER), False),
        ((FIX,), False),
    ],
)
def test_only_right_answers_without_a_failure_are_worth_imitating(turns, wanted):
    assert worth_imitating(play(*turns)) is wanted


def test_a_spoilt_episode_is_not_worth_imitating():
    episode = play(FIX, ANSWER)
    episode.faulted = True
    assert not worth_imitating(episode)


@pytest.mark.parametrize("name", ["clean", "shallow", "deep", "no call"])
def test_a_template_writes_the_turns_as_they_were_sampled(name):
    """The bundled policy's, which renders calls as its policy writes them."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    episode = play(*SCRIPTS[name], system_prompt=None)
    written = tokenizer.apply_chat_template(sft_row(episode)["messages"], tokenize=False)
    sampled = [turn.text for turn in episode.turns]
    assert [part for part in written.split("<|im_start|>") if part.startswith("assistant")] == [
        f"assistant\n{text}<|im_end|>\n" for text in sampled
    ]
