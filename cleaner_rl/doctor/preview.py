"""Preview: a short scripted episode with one splice, and which of its tokens would be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Literal

from rich.console import Console
from rich.text import Text

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode
from cleaner_env.interpreter import Sandbox
from cleaner_env.task import Task
from cleaner_rl.doctor.subject import Finding, Subject
from cleaner_rl.grpo.credit import episode_samples
from cleaner_rl.rollout.environment import make_env
from cleaner_rl.settings import EpisodeConfig

Kind = Literal["environment", "sampled", "grafted"]

_STYLES: dict[Kind, str] = {"environment": "bright_black", "sampled": "green", "grafted": "magenta"}
TASK = Task("What is 6 * 7?", "42")
BUG = "print(6 * seven)"
FIX = "seven = 7\nprint(6 * seven)"
ANSWER = r"The answer is \boxed{42}."


@dataclass(frozen=True, slots=True)
class Segment:
    """Adjacent tokens that were sampled in place, grafted by the splice, or written by the
    environment; ``trained`` if the loss counts them."""

    kind: Kind
    trained: bool
    text: str
    tokens: int


def check_trained_tokens(subject: Subject) -> Finding:
    """The loss must count everything that the policy wrote, and nothing else."""
    episode = scripted_episode(subject)
    segments = episode_segments(subject, episode)
    trained = "".join(segment.text for segment in segments if segment.trained)
    tokens = [turn.completion.tokens for turn in episode.turns]
    written = "".join(subject.decode(of_turn.ids) for of_turn in tokens if of_turn is not None)
    counts = {
        str(kind): sum(segment.tokens for segment in segments if segment.kind == kind)
        for kind in _STYLES
    }
    details = {**counts, "segments": segments}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    if subject.config.grafted == "recompute" and trained != written:
        return Finding(
            "failed",
            f"the loss would count {trained!r}, but the policy wrote {written!r}",
            "report this, with the output of --json",
            details,
        )
    (record,) = episode.rollbacks
    if record.decision != "shallow":
        return Finding(
            "warning",
            f"{told}; the splice could not keep the reasoning, because the call does not begin at "
            "a token boundary",
            "every splice will be deep with this tokenizer",
            details,
        )
    return Finding("ok", f"{told} tokens of the scripted episode below", details=details)


def scripted_episode(subject: Subject) -> Episode:
    """Play a failing call, its correction and the answer, as if the policy had sampled them."""
    calls = {"I multiply.": BUG, "The name is missing.": FIX}
    texts = [f"{reasoning}\n{subject.format.render(code)}" for reasoning, code in calls.items()]
    config = EpisodeConfig(system_prompt=subject.config.episode.system_prompt)
    # The scripted programs are our own, so they may run without isolation.
    with Sandbox(allow_weak=True) as sandbox:
        env = make_env(config, sandbox, subject.format, knows_tool=subject.knows_tool)
        env.reset(seed=0, options={"task": TASK})
        for text in [*texts, ANSWER]:
            ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = [*ids, subject.codec.stop_ids[0]]
            logprobs = [-1.0] * len(ids)
            env.step(Completion.from_tokens(ids, logprobs, subject.decode, stop_length=1))
    return env.episode


def episode_segments(subject: Subject, episode: Episode) -> list[Segment]:
    """The purified trajectory of an episode with a positive advantage, without the extra samples of
    credit rules."""
    config, codec = subject.config, subject.codec
    prompt_ids = codec.prompt_ids(episode.prompt)
    sample = episode_samples(
        episode, 1.0, prompt_ids, codec.observation_ids, config.credit, config.grafted
    )[0]
    kinds: list[tuple[Kind, bool]] = [
        ("grafted" if is_grafted else "sampled" if counts else "environment", counts)
        for counts, is_grafted in zip(sample.mask, sample.grafted, strict=True)
    ]
    segments = []
    for (kind, trained), group in groupby(zip(kinds, sample.ids, strict=True), itemgetter(0)):
        ids = [token for _, token in group]
        segments.append(Segment(kind, trained, subject.decode(ids), len(ids)))
    return segments


def show_segments(segments: Sequence[Segment], console: Console) -> None:
    """Print the scripted episode in colour, and where each of its segments comes from."""
    environment, sampled, grafted = _STYLES.items()
    trained = ("\nTokens of a scripted episode with one splice: ", sampled, " and ", grafted)
    legend = Text.assemble(*trained, " are trained, ", environment, " never\n")
    console.print(legend, soft_wrap=True)
    for segment in segments:
        left_out = not segment.trained and segment.kind != "environment"
        head = f"{segment.kind + ' (left out)' * left_out:<12} {segment.tokens:>5} "
        for line in segment.text.splitlines(keepends=True):
            text = (line.replace("\n", "⏎"), _STYLES[segment.kind])
            console.print(Text.assemble(f"{head}| ", text), soft_wrap=True)
            head = " " * 19
