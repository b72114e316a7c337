"""Settings: the values they may take, and those of an episode and of an update. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from cleaner_rl.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Precision = Literal["float32", "bfloat16", "float16"]
LossName = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
CreditRule = Literal["purified", "positive", "contrastive", "branched"]
GraftedTreatment = Literal["recompute", "mask"]
SaarMode = Literal["on", "off", "shallow-only", "deep-only", "mask-failed", "roc"]
SimilarityOn = Literal["code", "call"]
SystemPrompt = Literal["auto", "default", "none"]
Preload = Literal["light", "full"]
ToolFormat = Literal["auto", "hermes", "qwen3-coder", "llama3", "harmony", "fenced"]
ToolRole = Literal["user", "tool"]
Schedule = Literal["reproducible", "eager"]
LoggerName = Literal["none", "tensorboard", "wandb"]

CREDIT_RULES: dict[CreditRule, str] = {
    "purified": "the purified trajectory takes the advantage, as published",
    "positive": "grafted tokens take only positive advantages",
    "contrastive": "negative advantages go to the failed calls that were really sampled",
    "branched": "calls that splices took away join their group as failures",
}
"""What each rule does, for reports."""

Config = TypeVar("Config", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Bound:
    """What a setting has to satisfy; stands in the ``Annotated`` type of its field."""

    holds: Callable[[Any], bool]
    demand: str
    """Ends the sentence "--setting must ..."."""


NOT_NEGATIVE = Bound(lambda value: value >= 0, "not be negative")
BETWEEN_0_AND_1 = Bound(lambda value: 0 <= value <= 1, "lie between 0 and 1")
ABOVE_0 = Bound(lambda value: value > 0, "be above 0")

Count = Annotated[int, Bound(lambda value: value >= 1, "be at least 1")]
CountOrNone = Annotated[int, NOT_NEGATIVE]
Share = Annotated[float, BETWEEN_0_AND_1]
NotNegative = Annotated[float, NOT_NEGATIVE]
Positive = Annotated[float, ABOVE_0]


def check_bounds(config: DataclassInstance) -> None:
    """Refuse values outside the bounds that the fields' types declare; None is never outside."""
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        for bound in getattr(kind, "__metadata__", ()):
            if isinstance(bound, Bound) and value is not None and not bound.holds(value):
                raise UserError(f"{flag(name)} must {bound.demand}")


def flag(name: str) -> str:
    """A setting's name on the command line."""
    return "--" + name.replace("_", "-")


def flat(config: Any) -> dict[str, Any]:
    """Every setting by name, those of a config's parts included: what ``config.json`` holds."""
    values: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        values |= flat(value) if is_dataclass(value) else {field.name: value}
    return values


def change(config: Config, **settings: Any) -> Config:
    """A copy with other values of some settings, whichever part they stand in."""
    for field in fields(config):
        part: Any = getattr(config, field.name)
        mine = flat(part).keys() & settings.keys() if is_dataclass(part) else None
        if mine:
            settings[field.name] = replace(part, **{name: settings.pop(name) for name in mine})
    return replace(config, **settings)


def changed(
    before: DataclassInstance, after: DataclassInstance, may_change: Collection[str] = ()
) -> list[str]:
    """Names of the settings that differ, but for those that may."""
    then, now = flat(before), flat(after)
    return [name for name in now if now[name] != then[name] and name not in may_change]


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """How episodes are played, in training and in evaluation."""

    gamma: Share = 0.5
    """Similarity of two calls from which on a splice keeps the failed turn's reasoning."""
    max_retries: CountOrNone = 3
    """Lookaheads at one position."""
    similarity_on: SimilarityOn = "code"
    """Compare programs (the paper) or whole call blocks (the authors' released code)."""
    max_turns: Count = 3
    """Turns of an episode."""
    max_response_tokens: Count = 512
    """Tokens of an episode after its prompt; of a model on a server only the sampled ones count."""
    max_turn_tokens: Count = 128
    """Tokens of one turn."""
    system_prompt: SystemPrompt = "auto"
    """First message of an episode: how to use the tool (default) or nothing (none); auto leaves it
    out for policies that know the tool from their cold start, such as the bundled one."""
    tool_format: ToolFormat = "auto"
    """How the model calls the tool; auto goes by its chat template and warns where that shows no
    known format (for a model on a server: hermes). See docs/environment.md."""
    max_calls: Count = 1
    """Calls of one turn; they run in order, up to the first that fails."""
    strict_calls: bool = True
    """Malformed calls are errors that the model sees; off repairs what can be repaired."""
    temperature: Positive = 1.0
    """Of sampling."""
    stateful: bool = False
    """An episode's programs share their variables; one that fails leaves no trace."""
    preload: Preload = "full"
    """What programs find imported already: the standard library (light), or numpy and sympy as well
    (full), which costs every program a little and spares those which import them most of a
    second."""
    code_seconds: Positive = 4.0
    """Wall time of one program."""
    sample_batch: Count = 128
    """Turns that are decoded together."""
    cache_tokens: CountOrNone = 0
    """Tokens whose keys and values are kept for sampling; 0 takes a quarter of the memory."""
    schedule: Schedule = "reproducible"
    """When an episode goes on whose program has run: reproducible lets the sampled tokens alone
    decide, so that the same seed gives the same numbers; eager does not wait for slow programs."""
    workers: Count = 2
    """Programs that run at the same time, in each process."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True)
class EpisodeConfig(EpisodeRules):
    """What an episode is like, what becomes of its failed calls, and what it earns."""

    saar: SaarMode = "on"
    """What becomes of failed calls: on rolls them back by similarity (SAAR), off is plain GRPO.
    Baselines to compare with: shallow-only and deep-only roll back without looking at similarity,
    mask-failed keeps failed calls out of the loss, roc plays more episodes than it needs and keeps
    the correct ones with the fewest failed calls."""
    rollback_probability: Share = 1.0
    """Share of episodes that have rollback."""
    wrong_reward: Annotated[
        float, Bound(lambda value: value < 1, "be below 1, the reward of a right answer")
    ] = 0.0
    """What an episode without the right answer earns; one with it earns 1."""
    partial_reward: bool = False
    """A score between 0 and 1, such as the share of tests passed, earns its share."""
    format_penalty: NotNegative = 0.0
    """Taken off an episode whose answer cannot be found."""
    failure_penalty: NotNegative = 0.0
    """Taken off for each failed call that is left after rollback, 1 at most in all."""
    overlong_buffer: CountOrNone = 0
    """Last tokens of the response budget in which the reward falls off; 0 turns this off."""
    overlong_factor: NotNegative = 1.0
    """Penalty at the end of that buffer."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.overlong_buffer > self.max_response_tokens:
            raise UserError("--overlong-buffer must not exceed --max-response-tokens")


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """The optimiser and the loss."""

    learning_rate: Positive = 2e-4
    """Of AdamW, after the warm-up."""
    warmup_steps: CountOrNone = 3
    """Steps over which the learning rate rises from zero."""
    weight_decay: NotNegative = 0.0
    """Of AdamW."""
    grad_clip: Positive = 1.0
    """Largest norm of the gradient."""
    loss: LossName = "dapo"
    """What is minimised: grpo, dr_grpo, dapo, gspo or cispo; see docs/training.md."""
    clip_low: Annotated[float | None, BETWEEN_0_AND_1] = None
    """How far a probability ratio may fall below 1; None takes the loss's own bound."""
    clip_high: Annotated[float | None, NOT_NEGATIVE] = None
    """How far a probability ratio may rise above 1; None takes the loss's own bound."""
    dual_clip: Annotated[float, Bound(lambda value: value > 1, "be above 1")] = 10.0
    """Bound on the ratio of tokens with a negative advantage, for grpo, dr_grpo and dapo; inf for
    none."""
    kl_coefficient: Annotated[float, NOT_NEGATIVE, Bound(math.isfinite, "be a finite number")] = 0.0
    """Weight of a KL term that holds on to the policy the run started from; 0 for none."""
    tis_cap: NotNegative = 0.0
    """Largest truncated importance weight, where the sampler's probabilities differ from the
    trainer's; 2 is usual, 0 for none."""
    pack_tokens: Count = 8192
    """Tokens in one packed forward and backward pass."""
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory, a third more computation."""

    def __post_init__(self) -> None:
        check_bounds(self)
