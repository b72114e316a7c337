"""Arms: the ways of training in a comparison, as changes to a TrainConfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cleaner_rl.config import TrainConfig, given
from cleaner_rl.errors import UserError
from cleaner_rl.settings import CREDIT_RULES, change, flag

BASELINE = "off"
"""The arm that others are compared with, if it takes part."""
_PUBLISHED = "purified"
"""SAAR as published."""
_BEST_RULE = "branched"
"""The credit rule with the best results so far."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training."""

    name: str
    text: str
    """Describes the arm in the report."""
    changes: Mapping[str, Any]
    """Settings that differ from the comparison's, by name."""

    def config(self, base: TrainConfig) -> TrainConfig:
        """The arm's settings.

        Since roc plays more episodes than it keeps, its groups are smaller, so that all arms sample
        the same number of episodes.
        """
        config = change(base, **self.changes)
        if config.episode.saar == "roc":
            kept, left = divmod(config.group_size, config.oversample)
            if left or kept < 2:
                raise UserError(
                    f"the arm {self.name} keeps one of {config.oversample} episodes, at least "
                    f"two of a group: --group-size {config.group_size} has to be a multiple of "
                    f"--oversample {config.oversample}, and at least {2 * config.oversample}"
                )
            config = replace(config, group_size=kept)
        return config


_GAMMAS = (0.0, 0.3, 0.5, 0.7, 1.0)
_MODES = {
    "shallow-only": "as published, but every splice keeps the failed turn's reasoning",
    "deep-only": "as published, but every splice takes the new reasoning",
    "mask-failed": "no rollback; failed calls leave the loss",
    "roc": "no rollback; half of the episodes are kept, right ones by fewest failures",
}


def _published(name: str, text: str, **changes: Any) -> Arm:
    """SAAR as published, except for these changes."""
    return Arm(name, text, {"saar": "on", "credit": _PUBLISHED, **changes})


_ARMS = (
    Arm(BASELINE, "the baseline: DAPO without rollback", {"saar": "off"}),
    *(_published(rule, f"SAAR; {text}", credit=rule) for rule, text in CREDIT_RULES.items()),
    *(_published(mode, text, saar=mode) for mode, text in _MODES.items()),
    _published("rho-0.7", "as published, rollback in 70% of episodes", rollback_probability=0.7),
    *(_published(f"gamma-{g:g}", f"as published, gamma {g:g}", gamma=g) for g in _GAMMAS),
    *(_published(f"retries-{k}", f"as published, {k} retries", max_retries=k) for k in (1, 3, 5)),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _ARMS}
ALIASES: dict[str, tuple[str, ...]] = {
    "default": (BASELINE, _PUBLISHED, _BEST_RULE),
    "saar": (_PUBLISHED,),
    "best": (_BEST_RULE,),
    "rules": (BASELINE, *CREDIT_RULES),
    "modes": (BASELINE, _PUBLISHED, *_MODES, "rho-0.7"),
    # purified equals gamma-0.5 and retries-3, and stands for both.
    "ablations": (
        *(BASELINE, _PUBLISHED, "gamma-0", "gamma-0.3", "gamma-0.7", "gamma-1"),
        *("retries-1", "retries-5"),
    ),
}
"""Other names for one arm or several."""


def parse_arms(text: str) -> list[Arm]:
    """Parse the comma-separated names of ``--arms``; no arm comes twice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--arms names no arm; {_choices()}")
    for name in names:
        if name not in ARMS and name not in ALIASES:
            raise UserError(f"unknown arm {name!r}; {_choices()}")
    each = dict.fromkeys(arm for name in names for arm in ALIASES.get(name, (name,)))
    return [ARMS[name] for name in each]


def require_unset(arms: Sequence[Arm], arguments: Sequence[str]) -> None:
    """Check that the command's arguments set nothing that one of the arms sets itself."""
    for arm in arms:
        for name in given(arguments, *arm.changes):
            raise UserError(
                f"the arm {arm.name} sets {flag(name)} itself; omit the option, or choose other "
                "arms with --arms"
            )


def _choices() -> str:
    return f"use {', '.join(ARMS)}, or for several {', '.join(ALIASES)}"
