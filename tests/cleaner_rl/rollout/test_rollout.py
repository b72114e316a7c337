"""Rollout with a scripted policy: what it is shown at each turn, in tokens."""

import copy
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from typing import get_args

import pytest
import templates
from scripted import call

from cleaner_env import FORMATS, Completion, SandboxError, Task, make_format
from cleaner_env.chat import ChatCodec
from cleaner_env.rewards import GRADER, Scorer
from cleaner_rl.errors import OutageError, ToolFormatWarning, UserError
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.rollout.runner import Job
from cleaner_rl.settings import EpisodeConfig, ToolFormat

TASK = Task("What is 6*7?", "42")
ANSWER = r"The answer is \boxed{42}."
BUG, FIX = call("print(6 * y)", "First.\n"), call("print(6 * 7)", "Second.\n")


class ScriptedSampler:
    """Writes the given turns, the same ones for every episode, and notes what it was shown."""

    def __init__(self, policy, turns):
        self.policy, self.turns = policy, list(turns)
        self.shown: list[list[str]] = []
        self.limits: list[list[int]] = []
        self.seeds: list[tuple[int, ...]] = []
        self._ticks = count(step=1000)

    @property
    def clock(self):
        """So fast that every program has run when it is looked at."""
        return next(self._ticks)

    def reseed(self, seed):
        self.reset()

    def reset(self):
        self.asked = []

    def submit(self, request):
        self.asked.append(request)
        self.seeds.append(request.seed)

    def forget(self, key):
        pass

    def advance(self):
        asked, self.asked = self.asked, []
        turns = self.sample([request.ids for request in asked], [r.limit for r in asked])
        return [(request.key, turn) for request, turn in zip(asked, turns, strict=True)]

    def sample(self, contexts, limits):
        self.shown.append([self.policy.decode(context) for context in contexts])
        self.limits.append(list(limits))
        text = self.turns[len(self.shown) - 1]
        ids = [*self.policy.tokenizer(text)["input_ids"], self.policy.tokenizer.eos_token_id]
        return [
            Completion.from_tokens(ids, [-1.0] * len(ids), self.policy.decode, stop_length=1)
            for _ in contexts
        ]


class Serial:
    """Threads that take turns."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_):
        pass


def play(policy, turns, tasks=(TASK,), **config):
    sampler = ScriptedSampler(policy, turns)
    with Rollout(policy, sampler, EpisodeConfig(system_prompt="none", **config)) as rollout:
        return rollout.play(list(tasks), seed=0), sampler


PROMPT = "<|im_start|>user\nWhat is 6*7?<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>\n"
NEXT = "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def tool(text):
    return f"<|im_start|>user\n<tool_response>\n{text}{NEXT}"


def test_a_conversation_grows_by_turn_and_observation(toy_policy):
    (episode,), sampler = play(toy_policy, [FIX, ANSWER])
    assert sampler.shown == [[PROMPT], [PROMPT + FIX + END + tool("42")]]
    assert episode.correct


def test_lookahead_shows_the_error_and_what_follows_does_not(toy_policy):
    (episode,), sampler = play(toy_policy, [BUG, FIX, ANSWER])
    assert sampler.shown[1][0].startswith(PROMPT + BUG + END)
    assert "NameError" in sampler.shown[1][0]
    purified = FIX.replace("Second.", "First.")
    assert sampler.shown[2] == [PROMPT + purified + END + tool("42")]
    assert episode.stats.shallow == 1


def test_rollback_off_keeps_failure_and_error(toy_policy):
    (episode,), sampler = play(toy_policy, [BUG, FIX, ANSWER], saar="off")
    assert "NameError" in sampler.shown[2][0]
    assert [turn.text for turn in episode.turns] == [BUG, FIX, ANSWER]


def test_every_turn_draws_its_own_numbers(toy_policy):
    _, sampler = play(toy_policy, [BUG, FIX, ANSWER], tasks=[TASK, TASK])
    assert len(set(sampler.seeds)) == len(sampler.seeds) == 6


def test_a_turn_draws_the_same_numbers_after_an_interruption(toy_policy):
    (episode,), whole = play(toy_policy, [BUG, FIX, ANSWER])
    sampler = ScriptedSampler(toy_policy, [ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:
        turns = [turn.completion for turn in episode.raw_turns[:2]]
        list(rollout.stream([Job(0, TASK, 0, turns)], 1))
    assert sampler.seeds == whole.seeds[2:]


def test_finished_episodes_leave_the_batch(toy_policy):
    class Uneven(ScriptedSampler):
        def sample(self, contexts, limits):
            turns = super().sample(contexts, limits)
            if len(self.shown) == 1:
                ids = [*self.policy.tokenizer(ANSWER)["input_ids"], 2]
                turns[0] = Completion.from_tokens(
                    ids, [0.0] * len(ids), self.policy.decode, stop_length=1
                )
            return turns

    sampler = Uneven(toy_policy, [FIX, ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:
        episodes = rollout.play([TASK, TASK, TASK], seed=0)
    assert [len(shown) for shown in sampler.shown] == [3, 2]
    assert all(episode.correct for episode in episodes)


def test_limits_shrink_with_the_budget(toy_policy):
    _, sampler = play(toy_policy, [FIX, ANSWER], max_response_tokens=300, max_turn_tokens=290)
    used = len(toy_policy.tokenizer(sampler.shown[1][0].removeprefix(PROMPT))["input_ids"])
    assert sampler.limits[0] == [290]
    assert sampler.limits[1][0] == pytest.approx(300 - used, abs=1)


def test_response_length_leaves_out_what_was_never_trained(toy_policy):
    sampler = ScriptedSampler(toy_policy, [FIX, ANSWER])
    config = EpisodeConfig(system_prompt="none", max_turns=1)
    with Rollout(toy_policy, sampler, config) as rollout:
        (episode,) = rollout.play([TASK], seed=0)
        assert rollout.response_length(episode) == len(episode.turns[0].completion.tokens)


def test_a_wrong_answer_earns_what_the_reward_says(toy_policy):
    sampler = ScriptedSampler(toy_policy, [r"\boxed{41}"])
    config = EpisodeConfig(system_prompt="none", wrong_reward=-1.0)
    with Rollout(toy_policy, sampler, config) as rollout:
        (episode,) = rollout.play([TASK], seed=0)
    assert episode.reward == -1.0


def test_a_broken_grader_stops_the_rollout(toy_policy, monkeypatch, tmp_path):
    broken = tmp_path / "worker.py"
    broken.write_text("import no_such_module")
    monkeypatch.setattr("cleaner_env.rewards.grader._SCRIPT", broken)
    GRADER.close()
    sampler = ScriptedSampler(toy_policy, [r"\boxed{x+1}"])
    with (
        Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout,
        pytest.raises(OutageError, match="answers cannot be compared"),
    ):
        rollout.play([Task("?", "1+x")], seed=0)


def test_environments_are_reused(toy_policy):
    sampler = ScriptedSampler(toy_policy, [ANSWER, ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:
        (first,) = rollout.play([TASK], seed=0)
        (second,) = rollout.play([Task("What is 1+1?", "2")], seed=1)
    assert first.correct and not second.correct
    assert first.task is TASK


def test_a_sandbox_fault_is_retried_at_no_cost(toy_policy, monkeypatch):
    sampler = ScriptedSampler(toy_policy, [FIX, ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:
        run, faults = rollout.sandbox.run, [SandboxError("worker died")]

        def flaky(code):
            if faults:
                raise faults.pop()
            return run(code)

        monkeypatch.setattr(rollout.sandbox, "run", flaky)
        (episode,) = rollout.play([TASK], seed=0)
    assert episode.correct and episode.stats.failures == 0


def test_a_scorer_that_raises_spoils_its_episode_and_at_each_answer_stops_the_rollout(
    toy_policy, monkeypatch
):
    def picky(answer, task, runner):
        if task is not TASK:
            raise TypeError("no such answer")
        return 1.0

    monkeypatch.setattr("cleaner_env.rewards.reward.SCORERS", {"math": Scorer(picky)})
    sampler = ScriptedSampler(toy_policy, [ANSWER] * 2)
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:
        spoilt, good = rollout.play([Task("?", "1"), TASK], seed=0)
        assert (spoilt.faulted, good.faulted, good.correct) == (True, False, True)
        with pytest.raises(OutageError, match=r"scorer spoilt 2 of 2 .*no such answer"):
            rollout.play([Task("?", "1")] * 2, seed=0)


def test_an_outage_stops_the_rollout_and_says_so(toy_policy, monkeypatch):
    sampler = ScriptedSampler(toy_policy, [FIX, ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:

        def broken(code):
            raise SandboxError("no worker starts")

        monkeypatch.setattr(rollout.sandbox, "run", broken)
        with pytest.raises(OutageError, match="sandbox doctor"):
            rollout.play([TASK] * 2, seed=0)


def test_a_program_that_breaks_the_sandbox_spoils_its_episode_alone(toy_policy, monkeypatch):
    sampler = ScriptedSampler(toy_policy, [FIX, ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="none")) as rollout:
        run, calls = rollout.sandbox.run, []

        def poisoned(code):
            calls.append(code)
            if len(calls) < 3:
                raise SandboxError("worker died")
            return run(code)

        monkeypatch.setattr(rollout.sandbox, "run", poisoned)
        monkeypatch.setattr(rollout, "_threads", Serial())
        episodes = rollout.play([TASK] * 2, seed=0)
    assert [episode.faulted for episode in episodes] == [True, False]
    assert episodes[1].correct


def test_system_prompt_explains_the_tool_to_policies_that_do_not_know_it(toy_policy):
    _, sampler = play(toy_policy, [ANSWER])
    assert "<tools>" not in sampler.shown[0][0]
    sampler = ScriptedSampler(toy_policy, [ANSWER])
    with Rollout(toy_policy, sampler, EpisodeConfig(system_prompt="auto")) as rollout:
        rollout.play([TASK], seed=0)
    assert "<tools>" in sampler.shown[0][0]


def test_turns_are_read_in_the_chosen_format_and_the_prompt_explains_it(toy_policy):
    sampler = ScriptedSampler(toy_policy, ["I run it:\n```python\nprint(6 * 7)\n```", ANSWER])
    config = EpisodeConfig(tool_format="fenced")
    with Rollout(without_tools(toy_policy), sampler, config) as rollout:
        (episode,) = rollout.play([TASK], seed=0)
    assert make_format("fenced").render("print(6 * 7)") in sampler.shown[0][0]
    assert [turn.observation for turn in episode.turns] == ["42", None]


def test_a_template_without_a_format_gets_a_warning(toy_policy):
    policy = without_tools(toy_policy)
    with (
        pytest.warns(ToolFormatWarning, match="shows none of the tool-call formats"),
        Rollout(policy, ScriptedSampler(policy, []), EpisodeConfig()),
    ):
        pass


def test_calls_and_repairs_of_a_turn_are_as_configured(toy_policy):
    two = call("print(6)").replace("}}", "}") + call("print(7)", "")
    (episode,), _ = play(toy_policy, [two, ANSWER], max_calls=2, strict_calls=False)
    assert episode.turns[0].observation == "[call 1 of 2]\n6\n[call 2 of 2]\n7"


def test_a_command_prints_the_warning_without_its_place_in_the_code():
    program = (
        "import warnings; from cleaner_rl.errors import ToolFormatWarning, run_command\n"
        "run_command(lambda: warnings.warn('choose a format', ToolFormatWarning) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "warning: choose a format\n")


def test_the_option_offers_every_format():
    assert set(get_args(ToolFormat)) == {"auto", *FORMATS}


def test_an_unavailable_format_is_a_user_error(toy_policy):
    sampler = ScriptedSampler(toy_policy, [])
    with pytest.raises(UserError, match="unknown tool-call format"):
        Rollout(toy_policy, sampler, EpisodeConfig(tool_format="xml"))


def test_a_template_that_refuses_the_system_prompt_gets_it_in_the_question(toy_policy):
    policy = replace(toy_policy, tokenizer=copy.copy(toy_policy.tokenizer))
    policy.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    policy.codec = ChatCodec(policy.tokenizer)
    config = EpisodeConfig(system_prompt="default", tool_format="hermes", workers=1)
    sampler = ScriptedSampler(policy, [ANSWER])
    with pytest.warns(ToolFormatWarning, match="takes no system message"):
        rollout = Rollout(policy, sampler, config)
    with rollout:
        rollout.play([TASK], seed=0)
    prompt = sampler.shown[0][0]
    assert prompt.startswith("<|im_start|>You solve problems with the help of a Python interpreter")
    assert prompt.endswith(f"\n\n{TASK.prompt}<|im_end|>")


def without_tools(policy):
    """The policy with a chat template that knows no tools."""
    tokenizer = policy.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, templates.CHATML
    try:
        return replace(policy, codec=ChatCodec(tokenizer))
    finally:
        tokenizer.chat_template = template


def test_an_interruption_waits_for_programs_and_starts_none(toy_policy):
    """Or they would go on in environments that the next rollout uses."""
    slow = call("import time; time.sleep(0.3); print(42)")
    sampler = ScriptedSampler(toy_policy, [slow, ANSWER])
    config = EpisodeConfig(system_prompt="none", workers=1)
    with Rollout(toy_policy, sampler, config) as rollout:
        turns = []

        def interrupt(job, turn):
            turns.append(turn)
            if len(turns) == 3:
                raise KeyboardInterrupt

        jobs = [Job(index, TASK, index) for index in range(3)]
        with pytest.raises(KeyboardInterrupt):
            list(rollout.stream(jobs, 3, interrupt))
        played = [len(env.episode.turns) for env in rollout._envs]
        assert played[:2] in ([1, 0], [0, 1]) and played[2] == 0
        sampler.shown.clear()
        assert all(episode.correct for episode in rollout.play([TASK] * 3, seed=0))
