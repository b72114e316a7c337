"""verifiers plays its own way with a scripted model on the loopback. Run by .ci/integrations."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("verifiers", reason="needs an environment of its own: .ci/integrations")

import verifiers.v1 as vf
from chat_server import completion, serve
from renderers import DefaultRendererConfig, Qwen3RendererConfig
from scripted_rollouts import (
    BUNDLED,
    MAX_LENGTH,
    SCRIPTS,
    TASK,
    BrokenSandbox,
    ScriptedSandbox,
    expected,
    turns,
)
from transformers import AutoTokenizer

from cleaner_env import HermesFormat
from cleaner_env.integrations import verifiers as adapter

ID = "verifiers_saar"
EXAMPLES = Path(__file__).parents[3] / "examples"
TOKENIZER = AutoTokenizer.from_pretrained(BUNDLED)
HEAD = {"id": "x", "object": "chat.completion", "created": 0, "model": "scripted"}


@pytest.fixture(autouse=True)
def example_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def taskset(tmp_path):
    """A taskset of ``TASK`` alone."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"prompt": TASK.prompt, "answer": TASK.answer}) + "\n")
    config = vf.taskset_config_type(ID)(id=ID, tasks=f"{path}@holdout=0")
    return vf.load_taskset(config)


@pytest.fixture
def play(taskset, monkeypatch):
    """Plays the task with a client and settings of the harness."""

    def play(client, sandbox=None, agent=None, **settings):
        monkeypatch.setattr(adapter, "shared_sandbox", lambda *_: sandbox or ScriptedSandbox())
        config = vf.AgentConfig(
            model="scripted",
            client=client,
            harness=vf.harness_config_type(ID)(id=ID, **settings),
            runtime=vf.SubprocessConfig(),
            **(agent or {}),
        )
        (task,) = taskset

        async def run():
            async with vf.Agent(config) as player:
                return await player.run(task)

        return asyncio.run(run())

    return play


# A client for training, whose trace holds tokens.


def generated(script):
    """Answers of vLLM's endpoint for tokens: the turns of a script, in order."""
    left = turns(TOKENIZER, script)

    def answer(body):
        ids, logprobs = left.pop(0)
        finish = "stop" if ids[-1] == TOKENIZER.eos_token_id else "length"
        content = [
            {"token": f"token_id:{i}", "logprob": p} for i, p in zip(ids, logprobs, strict=True)
        ]
        choice = {"token_ids": ids, "finish_reason": finish, "logprobs": {"content": content}}
        return 200, {"request_id": "x", "choices": [choice]}

    return answer


def train_client(server, renderer=None, model=BUNDLED):
    """Without a renderer, the tokenizer's chat template renders, and calls are text."""
    return vf.TrainClientConfig(
        base_url=server.url,
        api_key_var="UNSET",
        renderer=renderer or DefaultRendererConfig(),
        renderer_model_name=str(model),
    )


def play_tokens(play, script, **settings):
    """The trace of a script, played with verifiers' client for training."""
    with serve(generated(script)) as server:
        settings.setdefault("env", {"system_prompt": None})
        trace = play(train_client(server), tools=False, max_turn_tokens=MAX_LENGTH, **settings)
    assert not trace.errors, trace.errors
    return trace


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_branch_that_is_trained_holds_what_the_trainers_rollout_gives(play, name):
    trace = play_tokens(play, name)
    wanted = expected()[name]
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    start = len(wanted["prompt_ids"])
    end = start + len(wanted["response_ids"])
    assert branch.token_ids[:end] == wanted["prompt_ids"] + wanted["response_ids"]
    assert [int(own) for own in branch.sampled_mask[start:end]] == wanted["mask"]
    assert not any(branch.sampled_mask[:start]) and not any(branch.sampled_mask[end:])
    assert trace.reward == wanted["reward"]
    rows = zip(branch.logprobs[start:end], wanted["logprobs"], wanted["grafted"], strict=True)
    assert all(got == pytest.approx(ours) for got, ours, grafted in rows if not grafted)
    assert trace.metrics["splices_lost"] == 0


@pytest.mark.parametrize("name", ["clean", "shallow", "deep", "later", "exhausted", "gave up"])
def test_a_renderer_that_reads_calls_trains_the_same_tokens(play, name, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.add_tokens(["<|endoftext|>", "</think>"], special_tokens=True)  # Qwen3 has them
    tokenizer.save_pretrained(tmp_path / "model")
    with serve(generated(name)) as server:
        trace = play(train_client(server, Qwen3RendererConfig(), tmp_path / "model"))
    assert (trace.errors, trace.metrics["splices_lost"]) == ([], 0)
    assert trace.reward == expected()[name]["reward"]
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    trained = zip(branch.token_ids, branch.sampled_mask, strict=True)
    wanted = zip(expected()[name]["response_ids"], expected()[name]["mask"], strict=True)
    assert [i for i, own in trained if own] == [i for i, own in wanted if own]


@pytest.mark.parametrize("name", ["shallow", "later", "exhausted"])
def test_grafted_tokens_keep_the_logprobs_with_which_they_were_sampled(play, name):
    """Those that the failed turn had there too keep that turn's, which is of this context."""
    trace = play_tokens(play, name)
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    sampled = {}
    for ids, logprobs in turns(TOKENIZER, name):
        for token, logprob in zip(ids, logprobs, strict=True):
            sampled.setdefault(token, []).append(pytest.approx(logprob))
    trained = zip(branch.token_ids, branch.logprobs, branch.sampled_mask, strict=True)
    assert all(logprob in sampled[token] for token, logprob, own in trained if own)


def test_grafted_tokens_can_be_left_out(play):
    trace = play_tokens(play, "deep", train_grafted=False)
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    wanted = expected()["deep"]
    both = zip(wanted["mask"], wanted["grafted"], strict=True)
    start = len(wanted["prompt_ids"])
    got = branch.sampled_mask[start : start + len(wanted["mask"])]
    assert got == [bool(own and not moved) for own, moved in both]


@pytest.mark.parametrize(("name", "branches"), [("clean", 0), ("deep", 1), ("exhausted", 3)])
def test_each_splice_leaves_a_branch_that_is_no_training_sample(play, name, branches):
    trace = play_tokens(play, name)
    assert sum(not branch.trainable for branch in trace.branches) == branches
    assert sum(branch.trainable for branch in trace.branches) == 1
    assert trace.metrics["shallow"] + trace.metrics["deep"] == branches


def test_a_splice_that_the_renderer_writes_with_other_tokens_is_counted_and_not_trained(play):
    """The model's tokens need not be those of the renderer: here each letter is a token."""
    letters = generated("shallow")

    def answer(body):
        status, data = letters(body)
        (choice,) = data["choices"]
        *text, stop = choice["token_ids"]
        ids = [i for c in TOKENIZER.decode(text) for i in TOKENIZER(c)["input_ids"]] + [stop]
        content = [{"token": f"token_id:{i}", "logprob": -1.0} for i in ids]
        choice |= {"token_ids": ids, "logprobs": {"content": content}}
        return status, data

    with serve(answer) as server:
        trace = play(train_client(server), tools=False)
    assert (trace.errors, trace.reward, trace.metrics["splices_lost"]) == ([], 1.0, 1)
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    assert any(branch.sampled_mask)  # the final answer
    assert [node.message.role for node in branch.nodes if any(node.mask)] == ["assistant"]


# A client for evaluation, whose server reads calls itself.


def message(text, *codes, finish="stop", **more):
    """A chat completion with a call of each program."""
    calls = []
    for code in codes:
        arguments = code if code.startswith("{") else json.dumps({"code": code})
        function = {"name": "code_interpreter", "arguments": arguments}
        message.calls += 1
        calls.append({"id": f"c{message.calls}", "type": "function", "function": function})
    more |= {"tool_calls": calls} if calls else {}
    body = completion(text, finish=finish, **more) | HEAD
    body["choices"][0]["index"] = 0
    body["usage"]["total_tokens"] = 16
    return 200, body


message.calls = 0


def play_text(play, *answers, agent=None, sandbox=None, **settings):
    """The trace of a scripted server, and its requests."""
    left = list(answers)
    with serve(lambda body: left.pop(0)) as server:
        client = vf.EvalClientConfig(base_url=server.url, api_key_var="UNSET")
        trace = play(client, agent=agent, sandbox=sandbox, **settings)
    return trace, [request["messages"] for request in server.requests]


ANSWER = message(r"It is \boxed{42}.")
BUG, FIX, OTHER = "x = 6 * y\nprint(x)", "x = 6 * 7\nprint(x)", "print(sum([7] * 6))"


def purified(trace):
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    return [
        (one.role, one.content, [call.arguments for call in getattr(one, "tool_calls", None) or ()])
        for one in branch.messages[2:]
    ]


def arguments(code):
    return json.dumps({"code": code})


def test_a_shallow_splice_keeps_the_first_words_and_takes_the_new_call(play):
    trace, shown = play_text(
        play, message("First.", BUG), message("Second.", FIX), ANSWER, env={"max_turns": 4}
    )
    assert purified(trace) == [
        ("assistant", "First.", [arguments(FIX)]),
        ("tool", "42", []),
        ("assistant", r"It is \boxed{42}.", []),
    ]
    assert "NameError" in shown[1][-1]["content"]
    assert [one["role"] for one in shown[2]] == ["system", "user", "assistant", "tool"]
    assert shown[2][-1]["tool_call_id"] == shown[2][-2]["tool_calls"][0]["id"]
    assert (trace.reward, trace.metrics["shallow"], trace.metrics["score"]) == (1.0, 1, 1)


def test_a_deep_splice_takes_the_whole_new_turn(play):
    trace, _ = play_text(play, message("First.", BUG), message("Second.", OTHER), ANSWER)
    assert purified(trace)[0] == ("assistant", "Second.", [arguments(OTHER)])


def test_thoughts_stay_with_the_words_that_they_led_to(play):
    first = message("First.", BUG, reasoning_content="Hm.")
    second = message("Second.", FIX, reasoning_content="Ah.")
    trace, shown = play_text(play, first, second, ANSWER)
    assert shown[2][2]["reasoning_content"] == "Hm." and shown[2][2]["content"] == "First."
    (branch,) = [branch for branch in trace.branches if branch.trainable]
    assert branch.messages[2].reasoning_content == "Hm."


def test_calls_in_text_are_spliced_as_text(play):
    write = HermesFormat().render
    first = message("First.\n" + write(BUG), reasoning_content="Hm.")
    second = message("Second.\n" + write(FIX), reasoning_content="Ah.")
    trace, shown = play_text(play, first, second, ANSWER, tools=False)
    assert shown[2][2]["content"] == "First.\n" + write(FIX)
    assert shown[2][2]["reasoning_content"] == "Hm."
    assert shown[2][3] == {"role": "user", "content": "<tool_response>\n42\n</tool_response>"}
    assert "<tool_call>" in shown[0][0]["content"]  # the system prompt shows the format
    assert trace.reward == 1.0


def test_a_call_in_text_is_mended_by_one_that_the_server_read(play):
    first = message("First.\n<tool_call>{print(1)}</tool_call>")
    trace, shown = play_text(play, first, message("Second.", FIX), ANSWER, saar={"gamma": 0.0})
    assert shown[2][2]["content"] == "First."
    assert [call["function"]["arguments"] for call in shown[2][2]["tool_calls"]] == [arguments(FIX)]
    assert trace.metrics["shallow"] == 1


def test_a_malformed_call_is_an_error_that_the_model_sees_under_its_id(play):
    trace, shown = play_text(
        play, message("First.", '{"code": '), message("Second.", FIX), ANSWER, saar={"mode": "off"}
    )
    call, result = shown[1][-2:]
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert result["role"] == "tool" and "Error" in result["content"]
    assert len(trace.branches) == 1  # messages that are sent again are the nodes that they were


def test_parallel_calls_each_have_a_result(play):
    trace, shown = play_text(play, message("Both.", OTHER, FIX), ANSWER, max_calls=2)
    ids = [call["id"] for call in shown[1][2]["tool_calls"]]
    assert [one["tool_call_id"] for one in shown[1][3:]] == ids
    assert len(trace.branches) == 1 and trace.metrics["calls"] == 1


def test_an_episode_of_several_turns_is_one_branch(play):
    steps = [message(f"Step {i}.", FIX) for i in range(3)]
    trace, _ = play_text(play, *steps, ANSWER)
    assert len(trace.branches) == 1 and trace.num_turns == 4


def test_a_limit_of_verifiers_truncates_the_episode(play):
    steps = [message(f"Step {i}.", FIX) for i in range(3)]
    trace, shown = play_text(play, *steps, agent={"max_turns": 2})
    assert (len(shown), trace.stop_condition, trace.reward) == (2, "max_turns", 0.0)
    assert (trace.metrics["truncated"], trace.ok) == (1.0, True)


def test_a_turn_that_a_length_limit_cuts_ends_the_episode(play):
    trace, _ = play_text(play, message(r"It is \boxed{42}, I th", finish="length"))
    assert (trace.reward, trace.metrics["truncated"]) == (0.0, 1.0)


def test_without_rollback_failed_calls_stay(play):
    trace, shown = play_text(
        play, message("First.", BUG), message("Second.", FIX), ANSWER, saar={"mode": "off"}
    )
    assert (len(trace.branches), len(shown[2]), trace.metrics["triggered"]) == (1, 6, 0)


def test_the_environments_own_reward_is_the_traces(play, monkeypatch, tmp_path):
    (tmp_path / "my_reward.py").write_text(
        "from cleaner_env.rewards import Reward\nREWARD = Reward(wrong=-1.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    wrong = message(r"It is \boxed{41}.")
    trace, _ = play_text(play, wrong, env={"reward": "my_reward:REWARD"})
    assert trace.reward == -1.0


def test_an_episode_that_a_limit_of_verifiers_ends_after_a_splice_is_no_training_sample(play):
    """The purified turn was never sent, so verifiers has no tokens of it."""
    trace, _ = play_text(play, message("1.", BUG), message("2.", FIX), agent={"max_turns": 2})
    assert (trace.ok, trace.reward, trace.metrics["recovered"]) == (True, 0.0, 1)
    assert [branch.trainable for branch in trace.branches] == [False]


def test_a_broken_sandbox_is_an_error_of_the_trace_and_no_failed_call(play):
    trace, shown = play_text(play, message("First.", FIX), sandbox=BrokenSandbox())
    assert (len(shown), trace.ok) == (1, False)
    assert "no worker answers" in trace.last_error.message


def test_an_error_of_the_server_is_an_error_of_the_trace(play):
    trace, _ = play_text(play, (400, {"error": {"message": "no such model"}}))
    assert not trace.ok and "no such model" in trace.last_error.message


def test_a_mistyped_setting_is_refused():
    with pytest.raises(ValueError, match="max_turn_token"):
        vf.harness_config_type(ID)(id=ID, max_turn_token=5)


def test_a_system_prompt_of_the_task_follows_the_description_of_the_tool(play, taskset, tmp_path):
    taskset.system_prompt = "Be brief."
    _, shown = play_text(play, ANSWER)
    assert shown[0][0]["role"] == "system"
    assert "call the tool code_interpreter" in shown[0][0]["content"]
    assert shown[0][0]["content"].endswith("\n\nBe brief.")


# The taskset alone.


@pytest.mark.parametrize(("reply", "reward"), [(r"So \boxed{42}.", 1.0), ("So 42 or so.", 0.0)])
def test_what_another_harness_played_is_judged_by_its_last_reply(taskset, reply, reward):
    (task,) = taskset
    trace = vf.Trace(
        task=vf.TraceTask(type="SaarTask", data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig())),
        root_reply=reply,
    )
    asyncio.run(task.score(trace))
    assert trace.reward == reward


def test_a_task_has_the_same_key_wherever_it_stands(taskset):
    (task,) = taskset
    assert task.key == task.with_data(idx=7).key
    assert task.key != task.with_data(prompt="What is 7*7?").key


def test_a_source_that_never_ends_is_an_endless_taskset():
    taskset = vf.load_taskset(vf.taskset_config_type(ID)(id=ID, tasks="builtin"))
    assert not taskset.bounded
    first, second = taskset.take(2)
    assert (first.data.idx, second.data.idx) == (0, 1) and first.data.prompt != second.data.prompt


def test_the_example_plays_in_a_real_sandbox(tmp_path, capsys):
    sys.modules.pop(ID, None)
    import verifiers_saar

    trace = verifiers_saar.main(tmp_path)
    assert (trace.reward, trace.metrics["recovered"]) == (1.0, 1.0)
    assert capsys.readouterr().out.startswith("not trained:")
