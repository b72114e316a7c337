"""Endpoint: episodes played by a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from cleaner_env.chat import tool_message
from cleaner_env.completion import Completion
from cleaner_env.formats import make_format
from cleaner_env.interpreter import Sandbox
from cleaner_rl.errors import EndpointError
from cleaner_rl.rollout.environment import check_faults, make_env, open_sandbox
from cleaner_rl.rollout.runner import EpisodeRunner, FinishedEpisode, Job
from cleaner_rl.settings import EpisodeConfig, ServerConfig

_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
_REFUSED = (400, 413, 422)
"""Statuses that reject this one conversation, for example because it is too long."""
_LONGEST_WAIT = 60.0
"""Seconds between two attempts, unless the server asks for more."""
_LONGEST_ASKED = 300.0
_MAX_REFUSED = 0.05
"""Share of episodes that the server may refuse before the rollout is stopped."""


class RequestRefused(Exception):
    """The server refuses this conversation, but may accept others. The message is its reason."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an endpoint read and sampled, as it counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class Endpoint:
    """A client for chat completions. Use as an asynchronous context manager."""

    def __init__(
        self,
        server: ServerConfig,
        model: str,
        temperature: float,
        top_p: float,
        first_wait_s: float = 0.5,
    ) -> None:
        self.server = server
        self._sampling = {"model": model, "temperature": temperature, "top_p": top_p}
        self._first_wait_s = first_wait_s
        base = server.endpoint.rstrip("/").removesuffix("/chat/completions")
        self._url = base + "/chat/completions"
        key, longest = os.environ.get(server.api_key_env), server.request_seconds
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(longest, connect=min(30.0, longest)),
            limits=httpx2.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int, seed: int
    ) -> tuple[Completion, Usage]:
        """The assistant's next turn, ``truncated`` when ``max_tokens`` ended it, and its usage.

        Raises:
            RequestRefused: the server does not accept this conversation.
            EndpointError: the server cannot be reached or used, or does not answer with a turn.
        """
        request = {
            **self._sampling,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "seed": seed,
        }
        return _read(await self._post(request), self._url)

    async def _post(self, request: Mapping[str, Any]) -> httpx2.Response:
        """The server's answer, after retries if needed."""
        attempts = self.server.request_retries + 1
        for attempt in range(attempts):
            wait = min(_LONGEST_WAIT, self._first_wait_s * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = await self._http.post(self._url, json=request)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__} {error}".strip()
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise EndpointError(f"--endpoint {self.server.endpoint!r}: {error}") from error
            else:
                if response.status_code == 200:
                    return response
                reason = f"status {response.status_code}: {_message(response)}"
                if response.status_code in _REFUSED:
                    raise RequestRefused(reason)
                if response.status_code not in _BUSY:
                    raise EndpointError(f"{self._url}: {reason}; {_remedy(response.status_code)}")
                wait = max(wait, _asked_wait(response))
            if attempt + 1 < attempts:
                await asyncio.sleep(wait)
        raise EndpointError(
            f"{self._url} did not answer in {attempts} attempts; the last one: {reason}. "
            "Check the server, or raise --request-retries or --request-seconds"
        )


def _read(response: httpx2.Response, url: str) -> tuple[Completion, Usage]:
    try:
        data = response.json()
        choice = data["choices"][0]
        text = choice["message"]["content"] or ""
        usage = Usage(int(data["usage"]["prompt_tokens"]), int(data["usage"]["completion_tokens"]))
        if not isinstance(text, str):
            raise TypeError(f"the content is {text!r}")
        turn = Completion(text, truncated=choice.get("finish_reason") == "length")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EndpointError(
            f"{url} did not answer with a chat completion that has usage "
            f"({type(error).__name__}: {error}): {response.text[:200]!r}"
        ) from error
    return turn, usage


def _message(response: httpx2.Response) -> str:
    """The server's own error message."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or response.reason_phrase


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "check the API key in the variable that --api-key-env names"
    if status == 404:
        return "check --endpoint (it usually ends in /v1) and --model"
    return "check --endpoint"


def _asked_wait(response: httpx2.Response) -> float:
    """Seconds that the server asks clients to wait; 0 if it says nothing."""
    try:
        return min(_LONGEST_ASKED, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return 0.0


class EndpointRollout:
    """Plays episodes with a model on a server, text in and text out.

    A program's output is sent either as a user message between ``<tool_response>`` tags, as in the
    Qwen family's templates, or as a message with the role ``tool``.

    Args:
        endpoint: the client, which is closed after ``play``.
        config: the episode's settings; ``max_response_tokens`` limits only the sampled tokens,
            because those of program output are known to the server alone.
    """

    def __init__(self, endpoint: Endpoint, config: EpisodeConfig) -> None:
        self.endpoint = endpoint
        self.config = config
        # The server's chat template is not visible, so it cannot tell the format.
        name = "hermes" if config.tool_format == "auto" else config.tool_format
        self.format = make_format(name, max_calls=config.max_calls, strict=config.strict_calls)

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
                sandbox, a scorer or the server's refusal have ``faulted`` set.

        Raises:
            EndpointError: the server cannot be used, or refused too many conversations.
            OutageError: the sandbox or a scorer spoilt too many episodes.
        """
        with open_sandbox(self.config) as sandbox, asyncio.Runner() as runner:
            # Ctrl-C leaves exceptions in tasks, which asyncio would print much later, in the middle
            # of unrelated output.
            runner.get_loop().set_exception_handler(lambda *_: None)
            try:
                runner.run(self._play(sandbox, jobs, spent, on_turn, on_episode))
            except BaseExceptionGroup as group:
                raise _first(group) from None

    async def _play(
        self,
        sandbox: Sandbox,
        jobs: Sequence[Job],
        spent: Mapping[int, Usage],
        on_turn: Callable[[Job, Completion, Usage], None],
        on_episode: Callable[[FinishedEpisode, Usage], None],
    ) -> None:
        """Run workers that take jobs until none are left."""
        waiting = iter(jobs)
        faults: list[Exception | None] = []
        refusals: list[RequestRefused] = []

        async def work(number: int) -> None:
            env = make_env(self.config, sandbox, self.format, knows_tool=False)
            for job in waiting:
                runner = await asyncio.to_thread(EpisodeRunner.begin, number, env, job)
                used = spent.get(job.index, Usage())
                try:
                    while not runner.over:
                        turn, usage = await self._ask(runner, used)
                        on_turn(job, turn, usage)
                        used += usage
                        await asyncio.to_thread(runner.step, turn)
                except RequestRefused as refusal:
                    env.episode.faulted = True
                    refusals.append(refusal)
                    _check_refusals(refusals, len(jobs))
                if runner.fault is not None and env.episode.faulted:
                    faults.append(runner.fault)
                    check_faults(faults, len(jobs))
                on_episode(runner.finished(), used)

        async with self.endpoint, asyncio.TaskGroup() as group:
            for number in range(min(self.endpoint.server.concurrency, len(jobs))):
                group.create_task(work(number))

    async def _ask(self, runner: EpisodeRunner, used: Usage) -> tuple[Completion, Usage]:
        """Ask for the next turn of an episode that has used ``used`` so far."""
        room = self.config.max_response_tokens - used.completion_tokens
        return await self.endpoint.complete(
            [self._message(message) for message in runner.info["messages"]],
            max(1, min(room, self.config.max_turn_tokens)),
            _seed(runner.job.seed, len(runner.env.episode.raw_turns)),
        )

    def _message(self, message: Mapping[str, str]) -> dict[str, str]:
        if message["role"] != "tool" or self.config.tool_role == "tool":
            return dict(message)
        return tool_message(message["content"], "user")


def _check_refusals(refusals: Sequence[RequestRefused], episodes: int) -> None:
    """Stop when so many conversations were refused that the rest would not measure the model."""
    if len(refusals) > max(1, _MAX_REFUSED * episodes):
        raise EndpointError(
            f"the server refused {len(refusals)} of {episodes} conversations ({refusals[0]}); "
            "if they are too long for it, lower --max-turns or --max-response-tokens"
        )


def _seed(seed: int, turn: int) -> int:
    """A seed for each turn of each episode, within the range that servers accept."""
    return (seed * 1009 + turn) % 2**31


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
