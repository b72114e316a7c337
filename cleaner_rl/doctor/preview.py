"""Preview: a short scripted episode with one splice, and which of its tokens would be trained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from cleaner_env.chat import ChatCodec
from cleaner_env.completion import Completion, Decode
from cleaner_env.episode import Episode
from cleaner_env.formats.protocol import ToolCallFormat
from cleaner_env.saar import SAARWrapper
from cleaner_env.task import Task
from cleaner_rl.grpo.credit import episode_samples
from cleaner_rl.settings import CreditRule, GraftedTreatment

Kind = Literal["environment", "sampled", "grafted"]

TASK = Task("What is 6 * 7?", "42")
BUG = "print(6 * seven)"
FIX = "seven = 7\nprint(6 * seven)"
ANSWER = r"The answer is \boxed{42}."


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens of the same kind.

    Attributes:
        kind: ``environment`` (never trained), ``sampled`` where it stands, or ``grafted`` by the
            splice.
        trained: whether the loss counts them.
        text: what they decode to.
        tokens: how many they are.
    """

    kind: Kind
    trained: bool
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The scripted episode as training would see it.

    Attributes:
        episode: as it was played.
        ids: of the whole sample.
        segments: of the sample, in order.
    """

    episode: Episode
    ids: tuple[int, ...]
    segments: list[Segment]

    def count(self, kind: Kind) -> int:
        """Tokens of that kind."""
        return sum(segment.tokens for segment in self.segments if segment.kind == kind)


def scripted_episode(
    env: SAARWrapper, tokenizer: Any, stop_id: int, decode: Decode, format: ToolCallFormat
) -> Episode:
    """A call that fails, its correction, and the answer, as a policy would have sampled them."""
    turns = [
        f"I multiply.\n{format.render(BUG)}",
        f"The name is missing.\n{format.render(FIX)}",
        ANSWER,
    ]
    env.reset(seed=0, options={"task": TASK})
    for text in turns:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], stop_id]
        turn = Completion.from_tokens(ids, [-1.0] * len(ids), decode, stop_length=1)
        env.step(turn)
    return env.episode


def preview(
    episode: Episode, codec: ChatCodec, decode: Decode, rule: CreditRule, grafted: GraftedTreatment
) -> Preview:
    """The purified trajectory of an episode with a positive advantage; what a rule trains beside it
    is not shown."""
    sample = episode_samples(
        episode, 1.0, codec.prompt_ids(episode.prompt), codec.observation_ids, rule, grafted
    )[0]
    kinds: list[tuple[Kind, bool]] = [
        ("grafted" if is_grafted else "sampled" if counts else "environment", counts)
        for counts, is_grafted in zip(sample.mask, sample.grafted, strict=True)
    ]
    segments, start = [], 0
    for (kind, trained), group in groupby(kinds):
        end = start + len(list(group))
        text = decode(sample.ids[start:end])
        segments.append(Segment(kind, trained, text, end - start))
        start = end
    return Preview(episode, sample.ids, segments)
