"""Endpoint: episodes played by a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

from cleaner_env.chat.client import ChatClient, RequestFailed, ServerError
from cleaner_env.chat.messages import Answer, ServerFormat, Usage, sent_messages
from cleaner_env.completion import Completion
from cleaner_env.formats import FORMATS
from cleaner_env.formats.protocol import TOOL_SCHEMA
from cleaner_env.interpreter import Sandbox
from cleaner_rl.errors import EndpointError
from cleaner_rl.rollout.environment import check_faults, make_env, open_sandbox
from cleaner_rl.rollout.runner import EpisodeRunner, FinishedEpisode, Job
from cleaner_rl.settings import EpisodeConfig, ServerConfig

_FEWEST_FAILED = 4
"""Episodes that fail one after the other, without an answer in between, before the rollout stops;
more if more are played at the same time."""


class EndpointRollout:
    """Plays episodes with a model on a server, whose answers become text.

    Args:
        server: the server, and how it is asked.
        model: the model's name there.
        config: the episode's settings; ``max_response_tokens`` limits only the sampled tokens,
            because those of program output are known to the server alone.
    """

    def __init__(
        self, server: ServerConfig, model: str, config: EpisodeConfig, top_p: float = 1.0
    ) -> None:
        self.server = server
        self.config = config
        # The server's chat template is not visible, so it cannot tell the format.
        name = "hermes" if config.tool_format == "auto" else config.tool_format
        make = ServerFormat if server.endpoint_tools else FORMATS[name]
        self.format = make(max_calls=config.max_calls, strict=config.strict_calls)
        tools = {"tools": [TOOL_SCHEMA]} if server.endpoint_tools else {}
        self.client = ChatClient(
            server.endpoint,
            {"model": model, "temperature": config.temperature, "top_p": top_p, **tools},
            key=os.environ.get(server.api_key_env, ""),
            seconds=server.request_seconds,
            retries=server.request_retries,
        )

    def play(
        self,
        jobs: Sequence[Job],
        spent: Mapping[int, Usage],
        on_turn: Callable[[Job, Completion, Usage], None],
        on_episode: Callable[[FinishedEpisode, Usage], None],
    ) -> None:
        """Play every job.

        Args:
            jobs: the episodes to play.
            spent: the usage of the turns that jobs already have, by a job's index.
            on_turn: called with each turn and its usage, before the turn is stepped.
            on_episode: called with each finished episode and its usage. Episodes spoilt by the
                sandbox, a scorer or the server have ``faulted`` set.

        Raises:
            EndpointError: the server cannot be used, or has failed one episode after the other.
            OutageError: the sandbox or a scorer spoilt too many episodes.
        """
        waiting = iter(jobs)
        faults: list[Exception | None] = []
        failed = 0
        most = max(_FEWEST_FAILED, self.server.concurrency)

        async def work(number: int, sandbox: Sandbox) -> None:
            nonlocal failed
            env = make_env(self.config, sandbox, self.format, knows_tool=False)
            for job in waiting:
                runner = await asyncio.to_thread(EpisodeRunner.begin, number, env, job)
                used = spent.get(job.index, Usage())
                try:
                    while not runner.over:
                        room = self.config.max_response_tokens - used.completion_tokens
                        # One for each turn of each episode, in the range that servers accept.
                        seed = (job.seed * 1009 + len(env.episode.raw_turns)) % 2**31
                        turn, usage, _ = await self.ask(runner.info["messages"], room, seed)
                        failed = 0
                        on_turn(job, turn, usage)
                        used += usage
                        await asyncio.to_thread(runner.step, turn)
                except RequestFailed as failure:
                    env.episode.faulted, runner.fault = True, failure
                    failed += 1
                    if failed >= most:
                        text = f"the server failed {failed} episodes one after the other"
                        raise EndpointError(f"{text}; the last one: {failure}") from failure
                else:
                    if env.episode.faulted:
                        faults.append(runner.fault)
                        check_faults(faults, len(jobs))
                on_episode(runner.finished(), used)

        async def work_together(sandbox: Sandbox) -> None:
            async with self.client:
                count = min(self.server.concurrency, len(jobs))
                await asyncio.gather(*(work(number, sandbox) for number in range(count)))

        with open_sandbox(self.config) as sandbox, asyncio.Runner() as runner:
            # Ctrl-C leaves exceptions in tasks, which asyncio would print much later, in the middle
            # of unrelated output.
            runner.get_loop().set_exception_handler(lambda *_: None)
            try:
                runner.run(work_together(sandbox))
            except ServerError as error:
                raise EndpointError(str(error)) from error

    async def ask(self, messages: Sequence[Mapping[str, str]], room: int, seed: int) -> Answer:
        """Ask for the next turn, of ``room`` tokens at most; for the errors see ``ChatClient``."""
        sent = sent_messages(messages, self.format, self.config.tool_role)
        longest = max(1, min(room, self.config.max_turn_tokens))
        return await self.client.complete(sent, longest, seed, self.format)
