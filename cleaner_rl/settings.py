"""Settings of an episode, an update and a server, and the values they may take. No torch."""

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
ToolRole = Literal["auto", "tool", "user"]
Schedule = Literal["reproducible", "eager"]
StopWhen = Literal["never", "no-signal", "no-calls", "no-answers", "low-entropy", "any"]
LoggerName = Literal["none", "tensorboard", "wandb", "trackio"]

CREDIT_RULES: dict[CreditRule, str] = {
    "purified": "the purified trajectory takes the advantage, as published",
    "positive": "grafted tokens take only positive advantages",
    "contrastive": "negative advantages go to the failed calls that were really sampled",
    "branched": "calls that splices took away join their group as failures",
}
"""What each credit rule does, in the words of reports."""

Config = TypeVar("Config", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition on a setting, given in the ``Annotated`` type of its field."""

    holds: Callable[[Any], bool]
    demand: str
    """The end of the sentence "--setting must ..."."""


NOT_NEGATIVE = Bound(lambda value: value >= 0, "not be negative")
BETWEEN_0_AND_1 = Bound(lambda value: 0 <= value <= 1, "lie between 0 and 1")
ABOVE_0 = Bound(lambda value: value > 0, "be above 0")
FINITE = Bound(math.isfinite, "be a finite number")

Count = Annotated[int, Bound(lambda value: value >= 1, "be at least 1")]
CountOrNone = Annotated[int, NOT_NEGATIVE]
Share = Annotated[float, BETWEEN_0_AND_1]
NotNegative = Annotated[float, NOT_NEGATIVE, FINITE]
Positive = Annotated[float, ABOVE_0, FINITE]


def check_bounds(config: DataclassInstance, prefix: str = "") -> None:
    """Refuse values that violate a bound in their field's type; None violates none."""
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        for bound in getattr(kind, "__metadata__", ()):
            if isinstance(bound, Bound) and value is not None and not bound.holds(value):
                raise UserError(f"{flag(prefix + name)} must {bound.demand}")


def flag(name: str) -> str:
    """The name of a setting on the command line."""
    return "--" + name.replace("_", "-")


def flat(config: Any) -> dict[str, Any]:
    """All settings by name, including those of a config's parts, as ``config.json`` holds them."""
    values: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        values |= flat(value) if is_dataclass(value) else {field.name: value}
    return values


def change(config: Config, **settings: Any) -> Config:
    """A copy with other values for some settings, whichever part they belong to."""
    for field in fields(config):
        part: Any = getattr(config, field.name)
        mine = flat(part).keys() & settings.keys() if is_dataclass(part) else None
        if mine:
            settings[field.name] = change(part, **{name: settings.pop(name) for name in mine})
    return replace(config, **settings)


def changed(
    before: DataclassInstance, after: DataclassInstance, may_change: Collection[str] = ()
) -> list[str]:
    """Names of the settings that differ, except for those that may change."""
    then, now = flat(before), flat(after)
    return [name for name in now if now[name] != then[name] and name not in may_change]


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """How an episode is played, in training and in evaluation."""

    gamma: Share = 0.5
    """How similar two calls must be for a splice to keep the failed turn's reasoning."""
    max_retries: CountOrNone = 3
    """Attempts to replace a failed call before it is left in the history."""
    similarity_on: SimilarityOn = "code"
    """Compare programs (the paper) or whole call blocks (the authors' released code)."""
    max_turns: Count = 3
    """Maximum number of turns in an episode."""
    max_response_tokens: Count = 512
    """Maximum number of tokens in an episode after its prompt."""
    max_turn_tokens: Count = 128
    """Maximum number of tokens in a turn."""
    system_prompt: SystemPrompt = "auto"
    """Instructions for the tool: the default ones, none, or what fits the model (auto)."""
    tool_format: ToolFormat = "auto"
    """How the model writes its calls; auto reads it from the chat template."""
    reward: str = ""
    """Reward of your own, MODULE:OBJECT; empty uses those of the tasks (docs/tasks.md)."""
    max_calls: Count = 1
    """Maximum number of calls in a turn; they run in order, up to the first that fails."""
    strict_calls: bool = True
    """Report malformed calls to the model as errors instead of repairing them."""
    tool_role: ToolRole = "auto"
    """Role of output messages; auto fits the template, and is user for a server."""
    temperature: Positive = 1.0
    """Temperature at which tokens are sampled."""
    stateful: bool = False
    """Let the programs of an episode share variables; one that fails leaves no trace."""
    preload: Preload = "full"
    """Preload the standard library (light), or numpy and sympy as well (full)."""
    code_seconds: Positive = 4.0
    """Time limit of a program, in seconds of wall-clock time."""
    sample_batch: Count = 128
    """Number of turns that are decoded together."""
    cache_tokens: CountOrNone = 0
    """Tokens in the key-value cache for sampling; 0 uses a quarter of the memory."""
    schedule: Schedule = "reproducible"
    """Continue episodes in reproducible order, or as soon as a program ends (eager)."""
    workers: Count = 2
    """Number of programs that run at the same time, in each process."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True)
class EpisodeConfig(EpisodeRules):
    """How an episode is played, how its failed calls are treated, and what it earns."""

    saar: SaarMode = "on"
    """How failed calls are treated: rolled back (on), kept (off), ... (docs/saar.md)."""
    rollback_probability: Share = 1.0
    """Share of episodes in which failed calls are rolled back."""
    wrong_reward: Annotated[
        float, FINITE, Bound(lambda value: value < 1, "be below 1, the reward of a right answer")
    ] = 0.0
    """Reward of an episode whose answer is wrong; a right one earns 1."""
    partial_reward: bool = False
    """Reward an answer by its score, such as the share of tests it passes."""
    format_penalty: NotNegative = 0.0
    """Penalty for an episode in which no answer can be found."""
    failure_penalty: NotNegative = 0.0
    """Penalty for each failed call left after rollback, at most 1 in total."""
    overlong_buffer: CountOrNone = 0
    """Last tokens of the response budget, over which the reward falls; 0 for none."""
    overlong_factor: NotNegative = 1.0
    """Penalty at the end of the overlong buffer."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.overlong_buffer > self.max_response_tokens:
            raise UserError("--overlong-buffer must not exceed --max-response-tokens")

    @property
    def failure_reward(self) -> float:
        """The reward of a call that a splice removed, if it joins its group."""
        return self.wrong_reward - self.failure_penalty


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """The optimiser and the loss."""

    learning_rate: Positive = 2e-4
    """Learning rate of AdamW after the warm-up."""
    warmup_steps: CountOrNone = 3
    """Steps over which the learning rate rises from zero."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    grad_clip: Annotated[float, ABOVE_0] = 1.0
    """Maximum norm of the gradient; inf for none."""
    loss: LossName = "dapo"
    """Loss function; docs/training-reference.md has the formulas."""
    clip_low: Annotated[float | None, BETWEEN_0_AND_1] = None
    """How far a probability ratio may fall below 1; None uses the loss's own bound."""
    clip_high: Annotated[float | None, NOT_NEGATIVE] = None
    """How far a probability ratio may rise above 1; None uses the loss's own bound."""
    dual_clip: Annotated[float, Bound(lambda value: value > 1, "be above 1")] = 10.0
    """Bound on ratios of tokens with a negative advantage; inf for none."""
    kl_coefficient: NotNegative = 0.0
    """Weight of a KL penalty that keeps the policy near the initial one; 0 for none."""
    tis_cap: Annotated[float, NOT_NEGATIVE] = 0.0
    """Cap on the importance weights of sampled tokens; 2 is usual, 0 uses no weights."""
    pack_tokens: Count = 8192
    """Number of tokens in one packed forward and backward pass."""
    share_prefixes: bool = True
    """Compute prefixes that samples have in common once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Evaluate the model that --model names on an OpenAI-compatible server."""

    endpoint: str = ""
    """URL of the server, such as http://localhost:8000/v1; empty loads the model here."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key; if unset, no key is sent."""
    concurrency: Count = 16
    """Number of conversations at the same time."""
    request_seconds: Positive = 600.0
    """Longest wait for an answer, in seconds."""
    request_retries: CountOrNone = 6
    """How often to repeat a request that was refused as busy, failed or timed out."""
    endpoint_tools: bool = False
    """Send the tool's description, for a server that parses and renders calls itself."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {self.endpoint!r}: give a URL such as http://host:8000/v1")
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        if given and not self.endpoint:
            raise UserError(f"{flag(given[0])} is about a server: give its URL with --endpoint")
