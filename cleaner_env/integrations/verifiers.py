"""verifiers (v1): the environment's tasks and scoring, and a harness in which SAAR acts.

verifiers finds the two by the name of a module that has them in its ``__all__``. A name with dots
will not do; ``examples/verifiers_saar.py`` is such a module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import verifiers.v1 as vf
from openai import AsyncOpenAI, OpenAIError
from pydantic import Field

from cleaner_env.chat import ServerFormat, read_answer, tools_schema
from cleaner_env.env import CodeToolEnv
from cleaner_env.episode_io import task_from_dict, task_to_dict
from cleaner_env.faults import try_step
from cleaner_env.formats import HermesFormat
from cleaner_env.formats.protocol import system_prompt
from cleaner_env.integrations import shared_sandbox
from cleaner_env.integrations.verifiers_trace import PurifiedTrace
from cleaner_env.rewards import Reward
from cleaner_env.saar import SAARWrapper
from cleaner_env.tasks.load import load_tasks
from cleaner_env.tasks.sources import task_count

__all__ = ["SaarHarness", "SaarTaskset"]

_PLAYED = "cleaner"
"""Key in ``trace.info`` of what the harness saw: score, reward and counts of the episode."""


class SaarTasksetConfig(vf.TasksetConfig):
    tasks: str = "builtin"
    """What ``load_tasks`` takes, such as ``"gsm8k:train.jsonl"``."""
    split: Literal["train", "test"] = "train"
    seed: int = 0


class SaarTaskData(vf.TaskData):
    cleaner_task: dict[str, Any]


class SaarTask(vf.Task[SaarTaskData, vf.State, vf.TaskConfig]):
    @property
    def key(self) -> str:
        return str(self.with_data(idx=None).hash)

    @vf.reward
    async def reward(self, trace: vf.Trace) -> float:
        """The environment's reward; if another harness has played, 1 for full marks, else 0."""
        played = trace.info.get(_PLAYED)
        if played is not None:
            return float(played["reward"])
        task = task_from_dict(self.data.cleaner_task)
        reward = Reward()
        runner = shared_sandbox() if reward.runs_programs(task) else None
        _, score = await asyncio.to_thread(reward.judge, trace.last_reply, task, runner)
        return float(score >= 1.0)


class SaarTaskset(vf.Taskset[SaarTask, SaarTasksetConfig]):
    """Tasks of any source of this package."""

    def __init__(self, config: SaarTasksetConfig) -> None:
        super().__init__(config)
        self._source = load_tasks(config.tasks, config.split, config.seed)
        self._count = task_count(self._source)
        self.INFINITE = self._count is None

    def load(self) -> Iterator[SaarTask]:
        index = 0
        while self._count is None or index < self._count:
            task = self._source[index]
            data = SaarTaskData(
                name=task.family, prompt=task.prompt, cleaner_task=task_to_dict(task)
            )
            yield SaarTask(data, self.config.task)
            index += 1


class SaarHarnessConfig(vf.HarnessConfig):
    saar: dict[str, Any] = Field(default_factory=dict)
    """Arguments of ``SAARWrapper``."""
    env: dict[str, Any] = Field(default_factory=dict)
    """Arguments of ``CodeToolEnv``, such as ``max_turns``."""
    tools: bool = True
    """Send the tool's description, and let the server read calls. Otherwise the system prompt has
    the description, and calls are text."""
    train_grafted: bool = True
    """Train grafted tokens, with log-probabilities of the context in which they were sampled."""
    max_calls: int = 1
    """The most calls in one turn."""
    max_turn_tokens: int = 16384
    """The most tokens of a turn, unless verifiers' own sampling settings say so."""
    workers: int = 8
    """Programs that run at the same time."""
    code_seconds: float = 4.0
    """Limit of one program."""
    allow_weak: bool = False
    """Run programs where isolation is unavailable."""


class SaarHarness(vf.Harness[SaarHarnessConfig]):
    """Plays an episode with SAAR against verifiers' interception server.

    verifiers owns the record: every request is rendered and tokenized by its client. A splice makes
    a new branch of the trace, with the purified turn as a message that was not sampled. What the
    model did sample of it is marked to be trained, and the branch that ended in the failed call is
    not a training sample.
    """

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False  # programs run in this package's sandbox, not in verifiers' runtime
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Play the episode; its counts become metrics of the trace."""
        config = self.config
        if mcp_urls:
            raise ValueError(f"the harness has the interpreter alone and cannot use {mcp_urls}")
        kind = ServerFormat if config.tools else HermesFormat
        format = kind(max_calls=config.max_calls)
        rules, question = self.resolve_text_prompt(data)
        given = {
            "system_prompt": "\n\n".join(filter(None, [system_prompt(format), rules])),
            "sandbox": shared_sandbox(config.workers, config.code_seconds, config.allow_weak),
            **config.env,
        }
        env = SAARWrapper(CodeToolEnv(format=format, **given), **config.saar)
        task = task_from_dict(data.cleaner_task)
        env.reset(options={"task": replace(task, prompt=question or task.prompt)})
        shown = PurifiedTrace(trace, env.episode, format, config.train_grafted)
        request = {"model": ctx.model, "max_tokens": config.max_turn_tokens}
        request |= {"tools": tools_schema()} if config.tools else {}
        over = False
        try:
            async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
                create = client.chat.completions.with_raw_response.create
                while not over:
                    response = await create(messages=shown.messages, **request)
                    answer = read_answer(response.text, format)
                    shown.sampled(answer.message)
                    result, fault = await asyncio.to_thread(try_step, env, answer.turn)
                    if result is None:
                        assert fault is not None, "a step without a result has an error"
                        raise fault
                    shown.stepped()
                    over = result[2] or result[3]
        except OpenAIError:
            if trace.stop_condition is None:
                raise
            env.get_wrapper_attr("truncate")()  # a limit of verifiers ended the episode
        episode, counts = env.episode, asdict(env.episode.stats)
        trace.info[_PLAYED] = {
            **{name: float(getattr(episode, name)) for name in ("reward", "score", "truncated")},
            **{name: counts[name] for name in counts if not name.startswith("tokens")},
            "splices_lost": shown.lost,
        }
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    @vf.metric
    async def saar(self, trace: vf.Trace) -> Mapping[str, float]:
        """The episode's counts."""
        played = trace.info.get(_PLAYED, {})  # empty when the agent ran out of time
        return {name: value for name, value in played.items() if name != "reward"}
