"""Loggers: send a run to TensorBoard, wandb or trackio, in addition to the files of the run.

Values have the groups ``rollout/``, ``learner/`` and ``held_out/``. Episodes are rows of the run's
episode files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from cleaner_env import Episode, episode_from_dict, transcript
from cleaner_rl.errors import UserError
from cleaner_rl.runs.metrics import METRICS
from cleaner_rl.settings import LoggerName

_ROLLOUT = {
    *METRICS,
    *("reward", "episodes", "groups", "groups_with_signal", "prompts_skipped", "sandbox_faults"),
    *("tokens_per_second", "sample_seconds", "step_seconds"),
}
"""Metrics of a step that are not the learner's."""
_TEXTS = 4
"""Episodes of a step that are logged as text."""
_TRACES = 16
"""Episodes of a step that are logged as traces, as many as TRL logs."""
_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Log(Protocol):
    """Logs what is known of a step: values by name, and some of its episodes."""

    def __call__(
        self, step: int, values: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]] = ()
    ) -> None: ...


def log_nothing(
    step: int, values: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]] = ()
) -> None: ...


def in_groups(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a training step by the names under which they are logged."""
    named = {f"{'rollout' if k in _ROLLOUT else 'learner'}/{k}": v for k, v in metrics.items()}
    named.pop("learner/step")
    return named


def held_out(metrics: Mapping[str, Any], mode: str = "off") -> dict[str, Any]:
    """The metrics of an evaluation by the names under which they are logged."""
    group = "held_out" if mode == "off" else "held_out/rollback_on"
    return {f"{group}/{name}": value for name, value in metrics.items()}


def check_logger(name: LoggerName) -> None:
    """Check that the logger's package is installed, and has what it needs, before any work."""
    if name == "none":
        return
    package = _import(name)
    online = name == "wandb" and package.setup().settings.mode in ("online", "shared")
    if online and not package.login(prompt=False):
        raise UserError(
            "wandb has no API key: give it one with `wandb login`, or keep the log below the run "
            "directory with WANDB_MODE=offline"
        )


@contextmanager
def open_logger(
    name: LoggerName, directory: Path, config: Mapping[str, Any], step: int
) -> Iterator[Log]:
    """Open a logger, and close it at the end of the block.

    ``step`` is the last finished step: what TensorBoard has of later ones is replaced. wandb and
    trackio keep it, and a resumed run continues theirs.
    """
    if name == "none":
        yield log_nothing
    elif name == "tensorboard":
        writer = _import(name).SummaryWriter(directory / "tensorboard", purge_step=step + 1)
        with closing(writer):
            yield lambda step, values, episodes=(): _to_tensorboard(writer, step, values, episodes)
    else:
        package = _import(name)
        run = (_wandb_run if name == "wandb" else _trackio_run)(package, directory, dict(config))
        show = _table if name == "wandb" else _traces
        try:
            yield lambda step, values, episodes=(): run.log(
                {**values, **show(package, episodes)}, step=step
            )
        finally:
            run.finish()


def _to_tensorboard(
    writer: Any, step: int, values: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]
) -> None:
    for key, value in values.items():
        writer.add_scalar(key, value, step)
    for number, row in enumerate(episodes[:_TEXTS]):
        lines = _text(row).splitlines()
        as_it_is = "\n".join(f"    {line}" for line in lines)  # in Markdown, which it is read as
        writer.add_text(f"rollout/episode_{number}", as_it_is, step)


def _table(wandb: Any, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A few episodes as a table for wandb."""
    if not episodes:
        return {}
    rows = [[*_facts(row).values(), _text(row)] for row in episodes[:_TEXTS]]
    names = [*_facts(episodes[0]), "transcript"]
    return {"rollout/transcripts": wandb.Table(columns=names, data=rows)}


def _traces(trackio: Any, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Episodes as traces for trackio, under TRL's name and with TRL's metadata."""
    traces = []
    for row in episodes[:_TRACES]:
        episode = episode_from_dict(row)
        shown = _encodable(episode.messages), _facts(row), _encodable(_spans(episode))
        traces.append(trackio.Trace(*shown))
    return {"rollouts": traces} if traces else {}


def _spans(episode: Episode) -> list[dict[str, Any]]:
    """The calls of an episode as they were made, those that rollback removed included."""
    return [
        {
            "id": str(number),
            "name": "call" if turn.retry == 0 else f"call after rollback {turn.retry}",
            "kind": "tool",
            "status": "error" if turn.failed else "ok",
            "error": turn.error_class or None,
            "input": turn.code or turn.text,
            "output": turn.observation,
        }
        for number, turn in enumerate(episode.raw_turns)
        if turn.ok is not None
    ]


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an episode; the first names are those that TRL gives."""
    stats, training = row["stats"], row["training"]
    member, calls = training["member"], stats["calls"]
    return {
        "reward": training["rewards"][member],
        "advantage": training["advantages"][member],
        "group_id": training["group"],
        "model_version": training["step"] - 1,
        "completion_tokens": stats["tokens_sampled"],
        "tools/call_frequency": calls,
        "tools/failure_frequency": stats["failures"] / calls if calls else 0.0,
        "rollbacks": stats["triggered"],
        "family": row["task"]["family"],
    }


def _text(row: Mapping[str, Any]) -> str:
    text: str = _encodable(transcript(episode_from_dict(row)))
    return text


def _encodable(value: Any) -> Any:
    """The same with "?" for halves of surrogate pairs, which loggers cannot store."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(part) for key, part in value.items()}
    return [_encodable(part) for part in value] if isinstance(value, list) else value


def _wandb_run(wandb: Any, directory: Path, config: dict[str, Any]) -> Any:
    try:
        return wandb.init(
            project="cleaner-rl",
            name=directory.name,
            id=_identity(directory, "wandb"),
            resume="allow",
            config=config,
            dir=directory,
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"wandb refuses the run: {error}; WANDB_MODE=offline keeps the log below the run "
            "directory, and --logger none does without it"
        ) from error


def _trackio_run(trackio: Any, directory: Path, config: dict[str, Any]) -> Any:
    return trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", "cleaner-rl"),
        name=f"{directory.name}-{_identity(directory, 'trackio')[:6]}",
        resume="allow",
        config=config,
        embed=False,
    )


def _identity(directory: Path, logger: str) -> str:
    """The name of this directory's run in a logger, the same one after a resumption."""
    path = directory / f"{logger}-id"
    if not path.exists():
        path.write_text(uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _import(name: LoggerName) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        raise UserError(f"--logger {name} needs: pip install -e '.[{name}]'") from error
