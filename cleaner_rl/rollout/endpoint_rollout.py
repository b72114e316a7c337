"""Endpoint rollout: many episodes side by side, the turns written by a model on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from cleaner_env.completion import Completion
from cleaner_env.formats import make_format
from cleaner_env.interpreter import Sandbox
from cleaner_rl.errors import EndpointError
from cleaner_rl.eval.journal import Usage
from cleaner_rl.rollout.endpoint import Endpoint, EndpointConfig, RequestRefused
from cleaner_rl.rollout.rollout import RolloutConfig, check_faults, make_env, open_sandbox
from cleaner_rl.rollout.runner import Job, Played, Seat

_MAX_REFUSED = 0.05
"""Share of episodes that the server may refuse before the rollout is stopped."""


class EndpointRollout:
    """Plays episodes with a model on a server, text in and text out.

    A program's output goes to the model as a message of the user, between ``<tool_response>`` tags
    as in the Qwen family's templates, or as a message of the role ``tool``.

    Args:
        endpoint: the server and the model.
        config: what an episode is like; ``max_response_tokens`` bounds the sampled tokens of an
            episode, since only the server could count those of the programs' output.
        concurrency: conversations at the same time.
        tool_role: ``user`` or ``tool``.
    """

    def __init__(
        self,
        endpoint: EndpointConfig,
        config: RolloutConfig,
        concurrency: int = 16,
        tool_role: str = "user",
    ) -> None:
        self.endpoint = endpoint
        self.config = config
        self.concurrency = concurrency
        self.tool_role = tool_role
        # The server's chat template is not to be seen, so nothing can be read off it.
        name = "hermes" if config.tool_format == "auto" else config.tool_format
        self.format = make_format(name, max_calls=config.max_calls, strict=config.strict_calls)

    def play(
        self,
        jobs: Sequence[Job],
        spent: Mapping[int, Usage],
        on_turn: Callable[[Job, Completion, Usage], None],
        on_episode: Callable[[Played, Usage], None],
    ) -> None:
        """Play every job.

        Args:
            jobs: what to play.
            spent: by a job's index, what was used for the turns that it brings along.
            on_turn: called with each turn and what was used for it, before it is stepped.
            on_episode: called with each episode that ended, and what was used for it. One that the
                sandbox or a refusal of the server spoilt has ``faulted`` set.

        Raises:
            EndpointError: the server cannot be used, or refused too many conversations.
            OutageError: faults of the sandbox spoilt too many episodes.
        """
        with open_sandbox(self.config) as sandbox:
            session = _Session(self, sandbox, jobs, spent, on_turn, on_episode)
            try:
                asyncio.run(session.run())
            except BaseExceptionGroup as group:
                raise _first(group) from None


class _Session:
    """One call of ``play``: workers that take jobs until there are none."""

    def __init__(
        self,
        rollout: EndpointRollout,
        sandbox: Sandbox,
        jobs: Sequence[Job],
        spent: Mapping[int, Usage],
        on_turn: Callable[[Job, Completion, Usage], None],
        on_episode: Callable[[Played, Usage], None],
    ) -> None:
        self.rollout = rollout
        self.sandbox = sandbox
        self.total = len(jobs)
        self.waiting: Iterator[Job] = iter(jobs)
        self.spent = spent
        self.on_turn = on_turn
        self.on_episode = on_episode
        self.faults: list[Exception | None] = []
        self.refusals: list[RequestRefused] = []

    async def run(self) -> None:
        workers = min(self.rollout.concurrency, self.total)
        async with Endpoint(self.rollout.endpoint) as endpoint, asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._work(number, endpoint))

    async def _work(self, number: int, endpoint: Endpoint) -> None:
        env = make_env(self.rollout.config, self.sandbox, self.rollout.format, knows_tool=False)
        for job in self.waiting:
            seat = await asyncio.to_thread(Seat.begin, number, env, job)
            used = self.spent.get(job.index, Usage())
            try:
                while not seat.over:
                    used += await self._turn(endpoint, seat, used)
            except RequestRefused as refusal:
                env.episode.faulted = True
                self.refusals.append(refusal)
            self._note_fault(seat)
            self.on_episode(seat.played(), used)

    async def _turn(self, endpoint: Endpoint, seat: Seat, used: Usage) -> Usage:
        """One turn more; what was used for it."""
        config = self.rollout.config
        room = config.max_response_tokens - used.completion_tokens
        turn, usage = await endpoint.complete(
            [self._message(message) for message in seat.info["messages"]],
            max(1, min(room, config.max_turn_tokens)),
            _seed(seat.job.seed, len(seat.env.episode.raw_turns)),
        )
        self.on_turn(seat.job, turn, usage)
        await asyncio.to_thread(seat.step, turn)
        return usage

    def _message(self, message: Mapping[str, str]) -> dict[str, str]:
        if message["role"] != "tool" or self.rollout.tool_role == "tool":
            return dict(message)
        content = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": content}

    def _note_fault(self, seat: Seat) -> None:
        """Stop when so much was spoilt that what is left would not measure the model."""
        if seat.fault is not None and seat.env.episode.faulted:
            self.faults.append(seat.fault)
            check_faults(self.faults, self.total)
        if len(self.refusals) > max(1, _MAX_REFUSED * self.total):
            raise EndpointError(
                f"the server refused {len(self.refusals)} of {self.total} conversations "
                f"({self.refusals[0]}); where they are too long for it, lower --max-turns or "
                "--max-response-tokens"
            )


def _seed(seed: int, turn: int) -> int:
    """Seeds of different turns of different episodes, within what servers accept."""
    return (seed * 1009 + turn) % 2**31


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
