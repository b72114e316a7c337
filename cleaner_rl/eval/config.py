"""EvalConfig: every setting of an evaluation, its presets, and the arguments of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cleaner_rl.config import TrainConfig, choose, given, model_of, read_presets, restore
from cleaner_rl.errors import UserError
from cleaner_rl.settings import (
    ABOVE_0,
    Count,
    CountOrNone,
    EpisodeConfig,
    EpisodeRules,
    Precision,
    ServerConfig,
    Share,
    change,
    changed,
    check_bounds,
    flag,
    flat,
)

SETTINGS = "settings.json"
"""The file of settings in the directory of an evaluation."""
_OF_THE_MACHINE = ("workers", "allow_weak", "sample_batch", "cache_tokens", "schedule")
_FROM_THE_RUN = {"tasks"} | {rule.name for rule in fields(EpisodeRules)} - {*_OF_THE_MACHINE}
"""Settings whose defaults, for a checkpoint, are those of its training run."""
_MAY_CHANGE = (
    *("out", "resume", "device", "endpoint", *_OF_THE_MACHINE),
    *("api_key_env", "concurrency", "request_seconds", "request_retries"),
)
"""Settings that may differ when an evaluation is resumed: they do not affect the result."""


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Evaluate a policy on held-out tasks, with rollback off, on, or both side by side.

    Exit status: 0 complete, 1 episodes are missing, 2 an error, 130 interrupted.
    """

    preset: str = "default"
    """Preset that gives the defaults: default, or paper (as CLEANER's authors evaluate)."""
    model: str = "bundled"
    """Policy: bundled, smollm2, a Hugging Face directory, a run, a checkpoint, or a hub name."""
    tasks: str = "reasoning-gym"
    """Problems: reasoning-gym, gsm8k:FILE, a file of your own, ... (docs/tasks.md)."""
    rollback: Literal["off", "on", "both"] = "off"
    """Whether failed calls are rolled back; off shows the policy itself."""
    num_tasks: Count = 240
    """Number of held-out problems."""
    samples: Count = 1
    """Episodes for each problem."""
    out: str = ""
    """Directory for the episodes and the summary; empty writes nothing."""
    resume: str = ""
    """Directory of an evaluation to resume, with the settings that it was started with."""
    seed: CountOrNone = 0
    """Seed of tasks, sampling and the bootstrap."""
    device: str = "auto"
    """Device to use: auto (CUDA if there is one), cpu, cuda, cuda:1, ..."""
    dtype: Precision = "float32"
    """Precision of the forward passes."""
    top_p: Annotated[Share, ABOVE_0] = 1.0
    """Sample from the most probable tokens whose probabilities reach this sum."""
    top_k: CountOrNone = 0
    """Sample from that many of the most probable tokens; 0 for all."""
    episode: tyro.conf.OmitArgPrefixes[EpisodeRules] = field(default_factory=EpisodeRules)
    server: tyro.conf.OmitArgPrefixes[ServerConfig] = field(default_factory=ServerConfig)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.server.endpoint and self.model == "bundled":
            raise UserError("--endpoint needs --model: the model's name on that server")
        if self.server.endpoint_tools and self.episode.tool_format != "auto":
            raise UserError("--endpoint-tools: the server reads calls; leave out --tool-format")
        if self.server.endpoint and self.top_k:
            raise UserError(
                "--top-k is not part of the OpenAI protocol; leave it out with --endpoint"
            )

    @property
    def modes(self) -> tuple[str, ...]:
        """``"off"``, ``"on"`` or both."""
        return ("off", "on") if self.rollback == "both" else (self.rollback,)

    def rollout(self, mode: str) -> EpisodeConfig:
        """The settings of episodes with rollback off or on."""
        return EpisodeConfig(**flat(self.episode), saar="on" if mode == "on" else "off")

    def settings(self) -> dict[str, Any]:
        """The settings that ``--resume`` needs: all except the directory."""
        return {k: v for k, v in flat(self).items() if k not in ("out", "resume")}


PRESETS = read_presets("eval", EvalConfig())


def parse_eval(arguments: Sequence[str], prog: str = "cleaner-rl eval") -> EvalConfig:
    """The settings that arguments give.

    By default a checkpoint is evaluated with the limits of its training run. A resumed evaluation
    keeps its settings.
    """
    early = given(arguments, "preset", "model", "resume")
    if "resume" in early:
        return _resumed(arguments, Path(early["resume"]), prog)
    default = choose(PRESETS, early.get("preset", "default"))
    checkpoints = Path(model_of(early.get("model", ""))).resolve().parent
    run = checkpoints.parent / "config.json"
    if "model" in early and checkpoints.name == "checkpoints" and run.exists():
        kept = _FROM_THE_RUN - ({"temperature"} if default.preset == "paper" else set())
        trained = flat(TrainConfig.load(run))
        default = change(default, **{name: trained[name] for name in kept})
    config = tyro.cli(EvalConfig, args=arguments, default=default, prog=prog)
    return replace(config, model=model_of(config.model))


def _resumed(arguments: Sequence[str], directory: Path, prog: str) -> EvalConfig:
    remedy = "--resume wants the --out directory of an evaluation"
    stored = restore(EvalConfig(), directory / SETTINGS, remedy, "config")
    config = tyro.cli(EvalConfig, args=arguments, default=stored, prog=prog)
    other = changed(stored, config, _MAY_CHANGE)
    if config.out:
        other.append("out")
    if bool(config.server.endpoint) != bool(stored.server.endpoint):
        other.append("endpoint")
    if other:
        raise UserError(
            f"a resumed evaluation keeps its settings; leave out: {', '.join(map(flag, other))} "
            "(or begin another one with another --out)"
        )
    return config
