"""ComparisonReport: a comparison's results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from cleaner_rl.compare.analysis import DEFINITION
from cleaner_rl.compare.plots import HELD_OUT, TOKENS, TRAINING
from cleaner_rl.runs.markdown import table
from cleaner_rl.runs.metrics import LABELS

_FINAL = (
    *("accuracy", "failed_calls", "first_attempt_success", "first_call_failed", "recovery"),
    *("answered", "turns", "tokens_sampled"),
)
_OF_ROLLBACK = ("triggered", "shallow", "deep", "tokens_discarded")
_TRAINED = (
    *("reward", "accuracy", "failed_calls", "first_call_failed", "entropy", "turns"),
    *("tokens_sampled", "tokens_discarded", "shallow", "deep"),
    *("grafted_share", "grafted_gap", "sampled_gap", "groups_with_signal"),
)
_DIFFERENCES = {"accuracy": (100.0, "{:+.1f}"), "failed_calls": (1.0, "{:+.2f}")}
"""Factor and format of what is compared with the baseline."""
_NEVER = "not reached"

Data = Mapping[str, Any]


def report(results: Data, plan: Data, title: str) -> str:
    """The page for the results of ``compare``, with ``missing``: the names of omitted runs."""
    last = str(results["evaluated_steps"][-1])
    parts = [f"# {title}\n", _setting(results, plan), _arms(results)]
    for mode in ("off", "on"):
        parts += [f"## After {last} steps, rollback {mode}\n", _final(results, mode, last)]
    parts += ["## Against the baseline, at equal steps\n", _differences(results)]
    parts += [f"## Until the baseline's final accuracy\n\n{DEFINITION}\n", _reached(results)]
    parts += [f"![held-out curves]({HELD_OUT})\n", f"![accuracy by tokens]({TOKENS})\n"]
    parts += ["## Training\n", _training(results), f"![training curves]({TRAINING})\n"]
    parts += ["## Time\n", _time(results), "## Made with\n", _made_with(plan)]
    return "\n".join(parts)


def _setting(results: Data, plan: Data) -> str:
    config, seeds = plan["config"], results["seeds"]
    drawn = "seeds and problems" if len(seeds) > 1 else "problems (one seed says nothing of others)"
    text = (
        f"- policy: {config['model']}; tasks: {config['tasks']}; preset {config['preset']}\n"
        f"- {len(seeds)} runs of each arm, seeds {_listed(seeds)}: "
        f"{results['steps']} steps of {config['prompts']} problems x {config['group_size']} "
        "episodes, the same problems for all arms of a seed\n"
        f"- held out: {results['tasks']} problems x {results['samples']}, the same for all arms of "
        f"a seed, after steps {_listed(results['evaluated_steps'])}, with rollback off "
        "and on (on is SAAR as published for every arm: gamma 0.5, 3 retries)\n"
        f"- in brackets: 95% intervals by resampling {drawn}, the same resamples for all arms\n"
    )
    if results["missing"]:
        names = "; ".join(results["missing"])
        text += f"\n**Omitted, because unfinished or without a counterpart: {names}.**\n"
    return text


def _arms(results: Data) -> str:
    rows = []
    for name, arm in results["arms"].items():
        changes = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in arm["changes"].items())
        mark = " (baseline)" if name == results["baseline"] else ""
        rows.append([f"{name}{mark}", arm["text"], f"`{changes}`"])
    return table(["arm", "what it is", "settings of its own"], rows)


def _final(results: Data, mode: str, last: str) -> str:
    found = [of_mode[mode][last] for of_mode in results["held_out"].values()]
    rows = []
    for key in _FINAL + (_OF_ROLLBACK if mode == "on" else ()):
        label, form = LABELS[key]
        cells = (_cell(of[key]["value"], of[key]["interval_95"], form) for of in found)
        rows.append([label, *cells])
    for key in _DIFFERENCES:
        label, form = LABELS[key]
        seeds = ([_number(value, form) for value in of[key]["by_seed"]] for of in found)
        rows.append([f"{label}, each seed", *map(_listed, seeds)])
    return table(["", *results["arms"]], rows)


def _differences(results: Data) -> str:
    if not results["differences"]:
        return "There is only one arm.\n"
    rows = []
    for name, modes in results["differences"].items():
        for mode, steps in modes.items():
            for key in _DIFFERENCES:
                cells = (_difference(at.get(key), key) for at in steps.values())
                rows.append([name, f"rollback {mode}", LABELS[key][0], *cells])
    heads = [f"step {step}" for step in results["evaluated_steps"]]
    return (
        "Arm minus baseline, paired by seed and problem; accuracy in percentage points.\n\n"
        f"{table(['arm', '', '', *heads], rows)}\n{_by_seed(results)}"
    )


def _by_seed(results: Data) -> str:
    """The differences after the last step, seed by seed."""
    last = str(results["evaluated_steps"][-1])
    rows = []
    for name, modes in results["differences"].items():
        for key, (scale, form) in _DIFFERENCES.items():
            cell = modes["off"][last].get(key)
            if cell is not None and cell["by_seed"] is not None:
                seeds = _listed(form.format(value * scale) for value in cell["by_seed"])
                both = [_difference(cell, key, of) for of in ("interval_95", "seeds_interval_95")]
                rows.append([name, LABELS[key][0], seeds, *both])
    heads = ["arm", "", "by seed", "95% interval, seeds and problems", "95% interval, seeds alone"]
    return (
        f"After step {last}, rollback off. The last column is Student's t over seeds: wide if they "
        "are few, but free of assumptions about problems.\n\n" + table(heads, rows)
    )


def _reached(results: Data) -> str:
    reaching = results["reaching"]
    rows = [
        [
            name,
            _cell(arm["steps"], arm["steps_interval_95"], "{:.1f}", _NEVER),
            _ratio(arm, "steps"),
            _NEVER if arm["tokens"] is None else f"{arm['tokens'] / 1e6:.2f}",
            _ratio(arm, "tokens"),
            f"{arm['reached_in_resamples']:.0%}",
        ]
        for name, arm in reaching["arms"].items()
    ]
    heads = ["arm", "steps", "steps, ratio", "million sampled tokens", "tokens, ratio", "resamples"]
    return (
        f"Target: {reaching['target']:.1%}. Sampled tokens include those that rollback discarded. "
        "The last column is the share of resamples in which the target is reached.\n\n"
        + table(heads, rows)
    )


def _training(results: Data) -> str:
    arms = list(results["training"].values())
    rows = []
    for key in _TRAINED:
        label, form = LABELS[key]
        curves = [arm["metrics"].get(key) for arm in arms]
        if any(curve is not None for curve in curves):
            cells = ["-" if c is None else _spread(c["last_by_seed"], form) for c in curves]
            rows.append([label, *cells])
    shares = [_number(arm["shallow_share"], "{:.0%}") for arm in arms]
    rows.append(["share of splices that are shallow, all steps", *shares])
    totals = [f"{fmean(arm['tokens_by_seed']) / 1e6:.2f}" for arm in arms]
    rows.append(["million sampled tokens, all steps", *totals])
    return (
        f"Means over the last {arms[0]['last_steps']} steps, with the arm's own rollback; "
        "± is the standard deviation between seeds.\n\n" + table(["", *results["arms"]], rows)
    )


def _time(results: Data) -> str:
    rows = [
        [name, *(f"{fmean(run[kind] for run in runs):.0f}" for kind in ("training", "evaluation"))]
        for name, runs in results["seconds"].items()
    ]
    return table(["arm", "seconds of a run's steps", "of its evaluations"], rows)


def _made_with(plan: Data) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in plan["made_with"].items())
    return (
        f"{versions}.\n\n`{plan['command']}`\n\nEvery figure is computed from the files of the "
        "runs; `python -m cleaner_rl.compare --report-only DIR` computes them again.\n"
    )


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _number(value: float | None, form: str, nothing: str = "-") -> str:
    return nothing if value is None else form.format(value)


def _cell(
    value: float | None, ends: Sequence[float | None] | None, form: str, nothing: str = "-"
) -> str:
    text = _number(value, form, nothing)
    if ends is None:
        return text
    low, high = (_number(end, form, nothing) for end in ends)
    return text if low == high == text else f"{text} [{low}, {high}]"


def _ratio(arm: Data, of: str) -> str:
    """The ratio to the baseline; a dash if the baseline was at its target from the start."""
    value, ends = arm[f"{of}_ratio"], arm[f"{of}_ratio_interval_95"]
    if value is None and arm[of] is not None:
        return "-"
    return _cell(value, ends, "{:.2f}", _NEVER)


def _difference(cell: Data | None, key: str, interval: str = "interval_95") -> str:
    if cell is None:
        return "-"
    scale, form = _DIFFERENCES[key]
    ends = cell[interval] and [end * scale for end in cell[interval]]
    return _cell(cell["value"] * scale, ends, form)


def _spread(values: Sequence[float], form: str) -> str:
    mean = form.format(fmean(values))
    return mean if len(values) < 2 else f"{mean} ± {form.format(stdev(values))}"
