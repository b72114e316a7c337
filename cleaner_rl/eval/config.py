"""EvalConfig: every setting of an evaluation, its presets, and the arguments of the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from cleaner_rl.config import TrainConfig, option
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.eval.journal import SETTINGS
from cleaner_rl.rollout.environment import EpisodeConfig
from cleaner_rl.settings import (
    Precision,
    Preload,
    Schedule,
    SimilarityOn,
    SystemPrompt,
    ToolFormat,
    ToolRole,
)

_FROM_THE_RUN = (
    *("tasks", "gamma", "max_retries", "similarity_on", "system_prompt", "max_turns"),
    *("tool_format", "max_calls", "strict_calls", "stateful", "preload"),
    *("max_response_tokens", "max_turn_tokens", "temperature", "code_seconds"),
)
"""Settings that the evaluation of a checkpoint takes from its run, unless they are given."""
_MAY_CHANGE = (
    *("out", "resume", "device", "workers", "allow_weak", "sample_batch", "endpoint"),
    *("cache_tokens", "schedule"),
    *("api_key_env", "concurrency", "request_seconds", "request_retries"),
)
"""Settings that may differ when an evaluation is resumed: they do not say what is measured."""
_AT_LEAST_ONE = (
    *("num_tasks", "samples", "max_turns", "max_response_tokens", "max_turn_tokens"),
    *("max_calls", "sample_batch", "workers", "concurrency"),
)


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Evaluate a policy on held-out tasks, with rollback off, on, or both side by side.

    Exit status: 0 every episode was played; 1 some are missing because of faults of the sandbox or
    the endpoint (--resume tries them again); 2 an error, said on standard error; 130 interrupted.
    """

    preset: str = "default"
    """Where the other defaults come from: default, or paper (CLEANER's protocol: 16 samples,
    temperature 1.0, top_p 0.6; 16 turns and 20480 tokens)."""
    model: str = "bundled"
    """bundled, smollm2, a Hugging Face directory, or a hub name; with --endpoint the model's name
    there. For a checkpoint of a run, the defaults of the settings below are those of the run."""
    endpoint: str = ""
    """URL of an OpenAI-compatible server, such as http://localhost:8000/v1; empty samples here."""
    tasks: str = "reasoning-gym"
    """reasoning-gym, reasoning-gym:FAMILY,FAMILY, or a .jsonl file with prompt and answer."""
    rollback: Literal["off", "on", "both"] = "off"
    """Whether failed calls are rolled back during the evaluation; off shows the policy itself."""
    gamma: float = 0.5
    """With rollback: similarity from which on a splice keeps the failed turn's reasoning."""
    max_retries: int = 3
    """With rollback: lookaheads at one position."""
    similarity_on: SimilarityOn = "code"
    """With rollback: compare programs or whole call blocks."""
    num_tasks: int = 240
    """Held-out problems."""
    samples: int = 1
    """Episodes for each problem."""
    temperature: float = 1.0
    """Of sampling."""
    top_p: float = 1.0
    """Of sampling."""
    top_k: int = 0
    """Sample from that many of the most probable tokens; 0 for all."""
    system_prompt: SystemPrompt = "auto"
    """First message of an episode: how to use the tool (default) or nothing (none); auto leaves it
    out for policies that know the tool from their cold start, such as the bundled one."""
    tool_format: ToolFormat = "auto"
    """How the model calls the tool; auto goes by its chat template and warns where that shows no
    known format (with --endpoint: hermes). See docs/environment.md."""
    max_calls: int = 1
    """Calls of one turn; they run in order, up to the first that fails."""
    strict_calls: bool = True
    """Malformed calls are errors that the model sees; off repairs what can be repaired."""
    max_turns: int = 3
    """Turns of an episode."""
    max_response_tokens: int = 512
    """Tokens of an episode after its prompt; with --endpoint only sampled tokens count."""
    max_turn_tokens: int = 128
    """Tokens of one turn."""
    stateful: bool = False
    """An episode's programs share their variables; one that fails leaves no trace."""
    preload: Preload = "full"
    """What programs find imported already: the standard library (light), or numpy and sympy as well
    (full), which costs every program a little and spares those which import them most of a
    second."""
    code_seconds: float = 4.0
    """Wall time of one program."""
    sample_batch: int = 128
    """Episodes that are played side by side and decoded together."""
    cache_tokens: int = 0
    """Tokens whose keys and values are kept for sampling; 0 takes a quarter of the memory."""
    schedule: Schedule = "reproducible"
    """When an episode goes on whose program has run: reproducible lets the sampled tokens alone
    decide, so that the same seed gives the same episodes; eager does not wait for slow programs."""
    seed: int = 0
    """Of tasks, sampling and the bootstrap."""
    dtype: Precision = "float32"
    """Precision of the forward passes."""
    device: str = "auto"
    """auto (CUDA when there is one), cpu, cuda, ..."""
    workers: int = 2
    """Programs that run at the same time."""
    allow_weak: bool = False
    """Run programs without isolation where bubblewrap does not work."""
    api_key_env: str = "OPENAI_API_KEY"
    """With --endpoint: environment variable that holds the API key; no key is sent without it."""
    concurrency: int = 16
    """With --endpoint: conversations at the same time."""
    request_seconds: float = 600.0
    """With --endpoint: longest wait for an answer."""
    request_retries: int = 6
    """With --endpoint: how often a request is sent again that the server was too busy for, did not
    answer or failed at; waits double from half a second, or are what the server asks for."""
    tool_role: ToolRole = "user"
    """With --endpoint: role of the message that carries a program's output. user wraps it in
    <tool_response>, which every server takes; tool is for servers that take that role as it is."""
    out: str = ""
    """Directory for summary.json, episodes.jsonl and what --resume needs; empty writes nothing."""
    resume: str = ""
    """Directory of an evaluation to go on with, with its own settings; beside it may be given what
    does not change the result, such as --device and --workers."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} must be at least 1")
        for name in ("temperature", "code_seconds", "request_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"{_flag(name)} must be above 0")
        for name in ("max_retries", "request_retries", "seed", "top_k", "cache_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{_flag(name)} must not be negative")
        if not 0 <= self.gamma <= 1:
            raise UserError("--gamma must lie between 0 and 1")
        if not 0 < self.top_p <= 1:
            raise UserError("--top-p must lie above 0 and be at most 1")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {self.endpoint!r}: give a URL such as http://host:8000/v1")
        if self.endpoint and self.model == "bundled":
            raise UserError("--endpoint needs --model: the model's name on that server")
        if self.endpoint and self.top_k:
            raise UserError(
                "--top-k is no part of the OpenAI protocol; leave it out with --endpoint"
            )

    @property
    def modes(self) -> tuple[str, ...]:
        """``"off"``, ``"on"`` or both."""
        return ("off", "on") if self.rollback == "both" else (self.rollback,)

    def rollout(self, mode: str) -> EpisodeConfig:
        """What an episode is like in a mode."""
        return EpisodeConfig(
            rollback=mode == "on",
            gamma=self.gamma,
            max_retries=self.max_retries,
            similarity_on=self.similarity_on,
            max_turns=self.max_turns,
            max_response_tokens=self.max_response_tokens,
            max_turn_tokens=self.max_turn_tokens,
            system_prompt=self.system_prompt,
            tool_format=self.tool_format,
            max_calls=self.max_calls,
            strict_calls=self.strict_calls,
            stateful=self.stateful,
            preload=self.preload,
            code_seconds=self.code_seconds,
            workers=self.workers,
            schedule=self.schedule,
            allow_weak=self.allow_weak,
        )

    def settings(self) -> dict[str, Any]:
        """What ``--resume`` needs: every setting but the directory."""
        return {k: v for k, v in asdict(self).items() if k not in ("out", "resume")}


PRESETS: dict[str, EvalConfig] = {
    "default": EvalConfig(),
    "paper": EvalConfig(
        preset="paper",
        samples=16,
        temperature=1.0,
        top_p=0.6,
        max_turns=16,
        max_response_tokens=20480,
        max_turn_tokens=20480,
    ),
}
"""Settings by name. Source of ``paper``: CLEANER, arXiv 2601.15141, evaluation and recipe."""


def parse_arguments(arguments: Sequence[str]) -> EvalConfig:
    """The configuration behind command-line arguments.

    A checkpoint of a run is evaluated with the budgets that it was trained with, and a resumed
    evaluation keeps its settings.

    Raises:
        UserError: unknown preset, bad value, or a setting that a resumed evaluation cannot change.
    """
    resumed = option(arguments, "--resume")
    if resumed is not None:
        return _resumed(arguments, Path(resumed))
    name = option(arguments, "--preset") or "default"
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; use one of {sorted(PRESETS)}")
    default = PRESETS[name]
    run = _run_of(option(arguments, "--model"))
    if run is not None:
        trained = TrainConfig.load(run)
        kept = [field for field in _FROM_THE_RUN if name == "default" or field != "temperature"]
        default = replace(default, **{field: getattr(trained, field) for field in kept})
    return _parse(arguments, default)


def _run_of(model: str | None) -> Path | None:
    """The configuration of the run that a checkpoint belongs to; None for other models."""
    if model is None or Path(model).resolve().parent.name != "checkpoints":
        return None
    run = Path(model).resolve().parent.parent / "config.json"
    return run if run.exists() else None


def _resumed(arguments: Sequence[str], directory: Path) -> EvalConfig:
    stored = load_settings(directory)
    config = _parse(arguments, stored)
    changed = [
        _flag(name)
        for name, value in asdict(config).items()
        if value != getattr(stored, name) and name not in _MAY_CHANGE
    ]
    if config.out:
        changed.append("--out")
    if bool(config.endpoint) != bool(stored.endpoint):
        changed.append("--endpoint")
    if changed:
        raise UserError(
            f"a resumed evaluation keeps its settings; leave out: {', '.join(changed)} "
            "(or begin another one with another --out)"
        )
    return config


def load_settings(directory: Path) -> EvalConfig:
    """The settings of the evaluation in a directory.

    Raises:
        CheckpointError: there is none, or its settings cannot be read.
    """
    path = directory / SETTINGS
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; --resume wants the --out directory of an evaluation"
        ) from error
    unknown = set(values) - {field.name for field in fields(EvalConfig)}
    if unknown:
        raise CheckpointError(f"{path} has settings that do not exist: {sorted(unknown)}")
    return EvalConfig(**values)


def _parse(arguments: Sequence[str], default: EvalConfig) -> EvalConfig:
    return tyro.cli(EvalConfig, args=arguments, default=default, prog="python -m cleaner_rl.eval")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
