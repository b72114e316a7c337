"""EvalConfig: every setting of an evaluation, its presets, and the arguments of the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cleaner_rl.config import TrainConfig, choose, given, restore
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.eval.journal import SETTINGS
from cleaner_rl.settings import (
    Bound,
    Count,
    CountOrNone,
    EpisodeConfig,
    EpisodeRules,
    Positive,
    Precision,
    ToolRole,
    change,
    changed,
    check_bounds,
    flag,
    flat,
)

_OF_THE_MACHINE = ("workers", "allow_weak", "sample_batch", "cache_tokens", "schedule")
_FROM_THE_RUN = {"tasks"} | {rule.name for rule in fields(EpisodeRules)} - {*_OF_THE_MACHINE}
"""Settings that the evaluation of a checkpoint takes from its run, unless they are given."""
_MAY_CHANGE = (
    *("out", "resume", "device", "endpoint", *_OF_THE_MACHINE),
    *("api_key_env", "concurrency", "request_seconds", "request_retries"),
)
"""Settings that may differ when an evaluation is resumed: they do not say what is measured."""


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
    num_tasks: Count = 240
    """Held-out problems."""
    samples: Count = 1
    """Episodes for each problem."""
    top_p: Annotated[float, Bound(lambda value: 0 < value <= 1, "lie above 0 and be at most 1")] = (
        1.0
    )
    """Of sampling."""
    top_k: CountOrNone = 0
    """Sample from that many of the most probable tokens; 0 for all."""
    episode: tyro.conf.OmitArgPrefixes[EpisodeRules] = field(default_factory=EpisodeRules)
    seed: CountOrNone = 0
    """Of tasks, sampling and the bootstrap."""
    dtype: Precision = "float32"
    """Precision of the forward passes."""
    device: str = "auto"
    """auto (CUDA when there is one), cpu, cuda, ..."""
    api_key_env: str = "OPENAI_API_KEY"
    """With --endpoint: environment variable that holds the API key; no key is sent without it."""
    concurrency: Count = 16
    """With --endpoint: conversations at the same time."""
    request_seconds: Positive = 600.0
    """With --endpoint: longest wait for an answer."""
    request_retries: CountOrNone = 6
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
        check_bounds(self)
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
        return EpisodeConfig(**flat(self.episode), saar="on" if mode == "on" else "off")

    def settings(self) -> dict[str, Any]:
        """What ``--resume`` needs: every setting but the directory."""
        return {k: v for k, v in flat(self).items() if k not in ("out", "resume")}


PRESETS: dict[str, EvalConfig] = {
    "default": EvalConfig(),
    "paper": EvalConfig(
        preset="paper",
        samples=16,
        top_p=0.6,
        episode=EpisodeRules(
            max_turns=16, max_response_tokens=20480, max_turn_tokens=20480, temperature=1.0
        ),
    ),
}
"""Settings by name. Source of ``paper``: CLEANER, arXiv 2601.15141, evaluation and recipe."""


def parse_arguments(arguments: Sequence[str]) -> EvalConfig:
    """The configuration behind command-line arguments.

    A checkpoint of a run is evaluated with the budgets that it was trained with, and a resumed
    evaluation keeps its settings.
    """
    early = given(arguments, "preset", "model", "resume")
    if "resume" in early:
        return _resumed(arguments, Path(early["resume"]))
    default = choose(PRESETS, early.get("preset", "default"))
    checkpoints = Path(early.get("model", "")).resolve().parent
    run = checkpoints.parent / "config.json"
    if "model" in early and checkpoints.name == "checkpoints" and run.exists():
        kept = _FROM_THE_RUN - ({"temperature"} if default.preset == "paper" else set())
        trained = flat(TrainConfig.load(run))
        default = change(default, **{name: trained[name] for name in kept})
    return _parse(arguments, default)


def _resumed(arguments: Sequence[str], directory: Path) -> EvalConfig:
    stored = load_settings(directory)
    config = _parse(arguments, stored)
    other = changed(stored, config, _MAY_CHANGE)
    if config.out:
        other.append("out")
    if bool(config.endpoint) != bool(stored.endpoint):
        other.append("endpoint")
    if other:
        raise UserError(
            f"a resumed evaluation keeps its settings; leave out: {', '.join(map(flag, other))} "
            "(or begin another one with another --out)"
        )
    return config


def load_settings(directory: Path) -> EvalConfig:
    """The settings of the evaluation in a directory."""
    path = directory / SETTINGS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; --resume wants the --out directory of an evaluation"
        ) from error
    return restore(EvalConfig(), values, path)


def _parse(arguments: Sequence[str], default: EvalConfig) -> EvalConfig:
    return tyro.cli(EvalConfig, args=arguments, default=default, prog="python -m cleaner_rl.eval")
