"""TokenEpisode: an episode whose turns a trainer samples with its own engine, and its row."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from cleaner_env.completion import Completion
from cleaner_env.env import CodeToolEnv
from cleaner_env.faults import try_step
from cleaner_env.saar import SAARWrapper
from cleaner_env.task import Task
from cleaner_env.token_samples import context_ids, purified_sample

if TYPE_CHECKING:  # which takes jinja2
    from cleaner_env.chat.codec import ChatCodec

Grafted = Literal["recompute", "mask"]
"""What a trainer does with grafted tokens: it trains them, with log-probabilities that it computes
in the purified context, or leaves them out."""


def check_grafted(grafted: str) -> None:
    """Raise ValueError for what is no treatment of grafted tokens."""
    if grafted not in get_args(Grafted):
        raise ValueError(f"grafted must be one of {get_args(Grafted)}, not {grafted!r}")


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A purified trajectory as trainers take it. The lists have an entry for each response token.

    Attributes:
        prompt_ids: the tokens before the first turn.
        response_ids: the tokens after them.
        mask: 1 where the policy sampled the token and it is to be trained, else 0.
        logprobs: log-probability of each token in the context in which it was sampled; 0 for the
            environment's tokens. That of a grafted token belongs to another context.
        grafted: True where a splice brought the token here.
        reward: the episode's; None if the sandbox or a scorer spoilt it. Its mask is then 0.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    grafted: list[bool]
    reward: float | None


class TokenEpisode:
    """An episode that is being played: ask ``context`` and ``room``, sample, ``step``, until over.

    Args:
        env: from ``token_env``, with the same codec. It plays one episode at a time.
        codec: the model's chat template.
        task: the problem.
        seed: restarts the draws of whether an episode has rollback.
        max_context: the most tokens that the model can attend to.

    Attributes:
        over: whether it has ended.
        fault: the error that spoilt it, or one that a second attempt mended.
    """

    def __init__(
        self,
        env: SAARWrapper,
        codec: ChatCodec,
        task: Task,
        *,
        seed: int | None = None,
        max_context: int | None = None,
    ) -> None:
        self.env = env
        self.codec = codec
        self._max_context = max_context
        _, self._info = env.reset(seed=seed, options={"task": task})
        self.episode = env.episode
        self.prompt_ids = codec.prompt_ids(self.episode.prompt)
        self.over = False
        self.fault: Exception | None = None
        if self.room < 1:
            raise ValueError(
                f"a prompt of {len(self.prompt_ids)} tokens leaves no room in a context of "
                f"{max_context}; leave such problems out"
            )

    @property
    def context(self) -> list[int]:
        """The ids that the policy must be shown before its next turn."""
        return context_ids(self.prompt_ids, self.episode.turns, self.codec.observation_ids)

    @property
    def room(self) -> int:
        """The most tokens that the next turn may have."""
        room = int(self._info["remaining"])
        if self._max_context is not None:
            room = min(room, self._max_context - len(self.context))
        return room

    def step(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take a turn as it was sampled, including the token that ended it.

        What follows that token is dropped, and so is what is beyond ``room``. A turn that is not
        ended truncates the episode, as a length limit during sampling does.
        """
        stops = (i for i, token in enumerate(ids) if token in self.codec.stop_ids)
        length = min(self.room, next(stops, len(ids)) + 1)
        ids, logprobs = list(ids[:length]), list(logprobs[:length])
        stopped = bool(ids) and ids[-1] in self.codec.stop_ids
        turn = Completion.from_tokens(
            ids, logprobs, self.codec.decode, stop_length=int(stopped), truncated=not stopped
        )
        result, fault = try_step(self.env, turn)
        self.fault = fault or self.fault
        if result is None:
            self.over = True
            return
        _, _, terminated, truncated, self._info = result
        self.over = bool(terminated or truncated) or self._truncated_for_want_of_context()

    def _truncated_for_want_of_context(self) -> bool:
        """End the episode if the model cannot be shown it any longer."""
        if self._max_context is None or len(self.context) < self._max_context:
            return False
        self.env.get_wrapper_attr("truncate")()
        return True

    def row(self, grafted: Grafted = "recompute") -> TrainingRow:
        """The purified trajectory, once the episode is over."""
        check_grafted(grafted)
        sample = purified_sample(self.episode, self.prompt_ids, self.codec.observation_ids)
        start = len(self.prompt_ids)
        mask, moved = sample.mask[start:], sample.grafted[start:]
        if self.episode.faulted:
            mask = (False,) * len(mask)
        elif grafted == "mask":
            mask = tuple(own and not other for own, other in zip(mask, moved, strict=True))
        return TrainingRow(
            self.prompt_ids,
            list(sample.ids[start:]),
            [int(own) for own in mask],
            list(sample.logprobs[start:]),
            list(moved),
            None if self.episode.faulted else self.episode.reward,
        )


def token_env(
    codec: ChatCodec,
    max_length: int,
    *,
    saar: dict[str, Any] | None = None,
    format: str = "auto",
    max_calls: int = 1,
    strict: bool = True,
    **env: Any,
) -> SAARWrapper:
    """An environment with SAAR for a model with this chat template.

    Args:
        max_length: the most tokens after the prompt, those of programs' outputs included.
        saar: arguments of ``SAARWrapper``.
        format: how a turn calls the tool; ``"auto"`` means as the chat template shows.
        env: further arguments of ``CodeToolEnv``.

    Warns if the template does not show how the model calls tools.
    """
    for note in (*codec.notes, codec.format_warning(format)):
        if note is not None:
            warnings.warn(note, stacklevel=3)
    inner = CodeToolEnv(
        format=codec.make_format(format, max_calls=max_calls, strict=strict),
        max_length=max_length,
        measure=lambda text: len(codec.observation_ids(text)),
        **env,
    )
    return SAARWrapper(inner, **(saar or {}))
