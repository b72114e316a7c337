"""Endpoint: chat completions of an OpenAI-compatible server, with retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from cleaner_env.completion import Completion
from cleaner_rl.errors import EndpointError
from cleaner_rl.eval.journal import Usage

_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
_REFUSED = (400, 413, 422)
"""Statuses that speak of this conversation, such as one that is too long."""
_LONGEST_WAIT = 60.0
"""Seconds between two attempts, unless the server asks for more."""
_LONGEST_ASKED = 300.0


class RequestRefused(Exception):
    """The server will not continue this conversation, with its reason; others it may."""


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Where and how to ask.

    Attributes:
        url: of the API, such as ``http://localhost:8000/v1``.
        model: its name there.
        api_key: sent as a bearer token; None sends none.
        temperature: of sampling.
        top_p: of sampling.
        timeout_s: longest wait for an answer.
        retries: how often a failed request is sent again.
        first_wait_s: seconds before the first of these; they double from then on.
    """

    url: str
    model: str
    api_key: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    timeout_s: float = 600.0
    retries: int = 6
    first_wait_s: float = 0.5


class Endpoint:
    """A client for chat completions. Use as an asynchronous context manager."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        key = config.api_key
        self._url = config.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._http = httpx2.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(config.timeout_s, connect=min(30.0, config.timeout_s)),
            limits=httpx2.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int, seed: int
    ) -> tuple[Completion, Usage]:
        """The assistant's next turn.

        Args:
            messages: the conversation.
            max_tokens: most tokens of the turn.
            seed: of its sampling, for servers that have one.

        Returns:
            The turn, ``truncated`` when ``max_tokens`` ended it, and what was used for it.

        Raises:
            RequestRefused: the server does not accept this conversation.
            EndpointError: there is no such server or model, the key is wrong, the server did not
                answer, or answered with something else.
        """
        request = {
            "model": self.config.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "seed": seed,
        }
        return _read(await self._post(request), self._url)

    async def _post(self, request: Mapping[str, Any]) -> httpx2.Response:
        """The server's answer, after as many attempts as it takes."""
        config = self.config
        for attempt in range(config.retries + 1):
            wait = min(_LONGEST_WAIT, config.first_wait_s * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = await self._http.post(self._url, json=request)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__} {error}".strip()
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise EndpointError(f"--endpoint {config.url!r}: {error}") from error
            else:
                if response.status_code == 200:
                    return response
                reason = f"status {response.status_code}: {_message(response)}"
                if response.status_code in _REFUSED:
                    raise RequestRefused(reason)
                if response.status_code not in _BUSY:
                    raise EndpointError(f"{self._url}: {reason}; {_remedy(response.status_code)}")
                wait = max(wait, _asked_wait(response))
            if attempt < config.retries:
                await asyncio.sleep(wait)
        raise EndpointError(
            f"{self._url} did not answer in {config.retries + 1} attempts; the last one: {reason}. "
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
            f"{url} answered with something else than a chat completion with usage "
            f"({type(error).__name__}: {error}): {response.text[:200]!r}"
        ) from error
    return turn, usage


def _message(response: httpx2.Response) -> str:
    """What the server says is wrong."""
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
    """Seconds that the server asks to be left alone for; 0 where it says nothing."""
    try:
        return min(_LONGEST_ASKED, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return 0.0
