"""Where a cold start is saved: a Hugging Face directory with a record of how it was built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cleaner_rl.sft.config import SftError

__all__ = ["check_out", "save_policy", "write_build"]


def save_policy(model: Any, tokenizer: Any, build: dict[str, Any], out: Path) -> None:
    """Writes a Hugging Face directory and its ``build.json``, complete or not at all.

    Weights are stored in half precision; the configuration says float32, so that they are loaded
    as such.
    """
    scratch = out.with_name(f".{out.name}.writing")
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    model.half().save_pretrained(scratch)
    model.float()
    config = json.loads((scratch / "config.json").read_text())
    (scratch / "config.json").write_text(
        json.dumps({**config, "dtype": "float32"}, indent=2) + "\n"
    )
    tokenizer.save_pretrained(scratch)
    write_build(build, scratch)
    for path in scratch.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    if out.exists():
        out.rename(replaced)
    scratch.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def write_build(build: dict[str, Any], directory: Path) -> None:
    """Replaces ``build.json`` in one step."""
    scratch = directory / ".build.json.writing"
    scratch.write_text(json.dumps(build, indent=2) + "\n")
    scratch.replace(directory / "build.json")


def check_out(out: Path, overwrite: bool) -> None:
    """Refuses, before any work, an output directory that cannot or must not be written.

    Raises:
        SftError: it holds something and --overwrite was not given, or holds something that is no
            policy, or its parent cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise SftError(f"--out {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise SftError(
                f"--out {out} is not empty; add --overwrite to replace it, or name another"
            )
        if not (out / "tokenizer.json").exists() or (out / "checkpoints").exists():
            raise SftError(
                f"--out {out} holds something else than a policy, which --overwrite would delete; "
                "name another directory"
            )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = out.with_name(f".{out.name}.writing")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        scratch.rmdir()
    except OSError as error:
        raise SftError(
            f"cannot write to {out.parent} ({error.strerror}); name another --out"
        ) from error
