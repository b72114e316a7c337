"""Export: ``python -m cleaner_rl.export RUN --out DIR`` writes a Hugging Face directory, or with
``--purified`` episodes as rows for other trainers."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("export")

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from cleaner_env.chat import write_rows
from cleaner_rl.config import ExportConfig, parse_export
from cleaner_rl.errors import CheckpointError
from cleaner_rl.models.policy import load_policy
from cleaner_rl.runs.checkpoint import verify_checkpoint
from cleaner_rl.runs.files import whole_directory
from cleaner_rl.runs.lock import reserved
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.view.source import find_source


def export(config: ExportConfig) -> Path:
    """Write the model of a checkpoint, completely or not at all; returns the checkpoint's path."""
    run = RunDirectory.open(config.run)
    known = run.list_checkpoints()
    chosen = [path for path in known if config.step in (0, int(path.name.removeprefix("step-")))]
    if not chosen:
        raise CheckpointError(
            f"{run.path} has no checkpoint of step {config.step}; it has {[p.name for p in known]}"
        )
    checkpoint = chosen[-1]
    verify_checkpoint(checkpoint)
    with reserved(config.out, beside=True):
        policy = load_policy(str(checkpoint), "cpu")
        policy.model.to(getattr(torch, config.dtype))
        try:
            with whole_directory(config.out) as partial:
                policy.save(partial)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write {config.out}: {error}") from error
    return checkpoint


def export_purified(config: ExportConfig) -> dict[str, int]:
    """Write episodes as rows; returns the number of episodes, and of rows in each file."""
    parts = find_source(config.run).parts
    episodes = (one.episode for part in parts for one in part.episodes(config.step or None))
    with reserved(config.out, beside=True), whole_directory(config.out) as partial:
        return write_rows(partial, episodes, all_episodes=config.all_episodes)


def main(arguments: Sequence[str]) -> int:
    config = parse_export(arguments)
    if config.out.exists():
        raise CheckpointError(f"{config.out} exists already; give --out a new directory")
    if not config.purified:
        print(f"{export(config)} exported to {config.out}")
        return 0
    counts = export_purified(config)
    print(
        f"{config.out} has {counts['sft']} of {counts['episodes']} episodes in sft.jsonl, "
        f"and corrections of failed calls in preference.jsonl: {counts['preference']}"
    )
    return 0
