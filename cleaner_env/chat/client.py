"""ChatClient: asks an OpenAI-compatible server for turns, again where that may help."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from email.utils import mktime_tz, parsedate_tz
from typing import Any

import httpx2  # part of the extra train

from cleaner_env.chat.messages import Answer, ChatError, error_text, read_answer
from cleaner_env.formats import TextFormat

_BUSY = (408, 409, 425, 429)
"""Statuses after which the same request may succeed, as after all from 500 on."""
_REFUSED = (400, 413, 422)
"""Statuses that reject this one conversation, for example because it is too long."""
_REMEDIES = {
    **dict.fromkeys((401, 403), "check the API key in the variable that --api-key-env names"),
    404: "check --endpoint (it usually ends in /v1) and --model",
}
_NOT_CONNECTED = (
    *(httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError),
    *(httpx2.UnsupportedProtocol, httpx2.InvalidURL),
)
"""Errors after which a server that was never reached is not asked again."""
_LONGEST_WAIT = 60.0
"""Seconds between two attempts, unless the server asks for more."""
_LONGEST_ASKED = 300.0


class ServerError(Exception):
    """The server cannot be reached or used at all. The message says why, and what to check."""


class RequestFailed(ServerError):
    """The server gives this conversation no turn, but may answer others."""


class ChatClient:
    """A client for chat completions. Use as an asynchronous context manager.

    Args:
        url: the API's, such as ``http://localhost:8000/v1``.
        settings: what every request carries, such as ``model`` and ``temperature``.
        key: the API key; none is sent if it is empty.
        seconds: longest wait for an answer.
        retries: how often a request is repeated.
        first_wait_s: wait before the first repetition; it doubles with each.
    """

    def __init__(
        self,
        url: str,
        settings: Mapping[str, Any],
        *,
        key: str = "",
        seconds: float = 600.0,
        retries: int = 6,
        first_wait_s: float = 0.5,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._settings = dict(settings)
        self._attempts = retries + 1
        self._first_wait_s = first_wait_s
        self._reached = self._answered = False
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(seconds, connect=min(30.0, seconds)),
            limits=httpx2.Limits(max_connections=None),
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int, seed: int, format: TextFormat
    ) -> Answer:
        """Ask for the assistant's next turn, again if needed; it is ``truncated`` if ``max_tokens``
        ended it.

        Raises:
            RequestFailed: the server gives this conversation no turn.
            ServerError: the server cannot be reached or used at all.
        """
        request = {
            **self._settings,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "seed": seed,
        }
        attempts = self._attempts
        for attempt in range(attempts):
            wait = min(_LONGEST_WAIT, self._first_wait_s * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = await self._http.post(self._url, json=request)
                self._reached = True
                if response.status_code != 200:
                    status = response.status_code
                    raise ChatError(status, f"status {status}: {_message(response)}")
                answer = read_answer(response.content, format)
                self._answered = True
                return answer
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                reason = f"{type(error).__name__} {error}".strip()
                if not self._reached and isinstance(error, _NOT_CONNECTED):
                    raise ServerError(
                        f"{self._url} cannot be reached: {reason}; start the server, or check "
                        "--endpoint"
                    ) from error
            except ChatError as trouble:
                reason = str(trouble)
                if trouble.status < 500 and trouble.status not in _BUSY:
                    if self._answered or trouble.status in _REFUSED:
                        raise RequestFailed(reason) from None
                    remedy = _REMEDIES.get(trouble.status, "check --endpoint")
                    raise ServerError(f"{self._url}: {reason}; {remedy}") from None
                wait = max(wait, _asked_wait(response))
            if attempt + 1 < attempts:
                await asyncio.sleep(wait)
        raise RequestFailed(
            f"{self._url} gave no turn in {attempts} attempts; the last one: {reason}. "
            "Check the server, or raise --request-retries or --request-seconds"
        )


def _message(response: httpx2.Response) -> str:
    """The server's own error message."""
    try:
        return error_text(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or response.reason_phrase


def _asked_wait(response: httpx2.Response) -> float:
    """Seconds that the server asks clients to wait, in seconds or by a date; 0 without a wish."""
    asked = response.headers.get("retry-after", "")
    try:
        return min(_LONGEST_ASKED, float(asked))
    except ValueError:
        date = parsedate_tz(asked)
        return min(_LONGEST_ASKED, mktime_tz(date) - time.time()) if date else 0.0
