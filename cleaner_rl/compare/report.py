"""ComparisonReport: a comparison's results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from cleaner_rl.compare.analysis import DEFINITION
from cleaner_rl.compare.plots import HELD_OUT, TOKENS, TRAINING

_FINAL = (
    ("accuracy", "accuracy", "{:.1%}"),
    ("failed_calls", "failed calls per episode", "{:.2f}"),
    ("first_attempt_success", "first attempts that work", "{:.1%}"),
    ("first_call_failed", "episodes whose first call fails", "{:.1%}"),
    ("recovery", "failed calls that the next call mends", "{:.1%}"),
    ("answered", "episodes that end with an answer", "{:.1%}"),
    ("turns", "turns per episode", "{:.2f}"),
    ("tokens_sampled", "sampled tokens per episode", "{:.1f}"),
)
_OF_ROLLBACK = (
    ("triggered", "rollbacks per episode", "{:.2f}"),
    ("shallow", "shallow splices per episode", "{:.2f}"),
    ("deep", "deep splices per episode", "{:.2f}"),
    ("tokens_discarded", "tokens thrown away per episode", "{:.1f}"),
)
_TRAINED = (
    ("reward", "reward", "{:.3f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("failed_calls", "failed calls per episode", "{:.2f}"),
    ("first_call_failed", "episodes whose first call fails", "{:.1%}"),
    ("entropy", "entropy (nats per token)", "{:.3f}"),
    ("turns", "turns per episode", "{:.2f}"),
    ("tokens_sampled", "sampled tokens per episode", "{:.1f}"),
    ("tokens_discarded", "of them thrown away by rollback", "{:.1f}"),
    ("shallow", "shallow splices per episode", "{:.3f}"),
    ("deep", "deep splices per episode", "{:.3f}"),
    ("grafted_share", "trained tokens that are grafted", "{:.2%}"),
    ("grafted_gap", "log-prob gap of grafted tokens (nats)", "{:.2f}"),
    ("sampled_gap", "log-prob gap of sampled tokens (nats)", "{:.1e}"),
    ("groups_with_signal", "groups that teach something", "{:.1%}"),
)
_SIGNED = {"accuracy": 100.0, "failed_calls": 1.0}
_NEVER = "not reached"
_MODE = {"off": "rollback off", "on": "rollback on"}


def report(results: Mapping[str, Any], plan: Mapping[str, Any], title: str) -> str:
    """The page.

    Args:
        results: from ``comparison.compare``, with ``missing``: names of runs that are left out.
        plan: from ``ComparisonDirectory.read_plan``.
        title: of the page.
    """
    last = str(results["evaluated_steps"][-1])
    parts = [f"# {title}\n", _setting(results, plan), _missing(results), _arms(results)]
    for mode in ("off", "on"):
        parts += [f"## After {last} steps, {_MODE[mode]}\n", _final(results, mode, last)]
    parts += ["## Against the baseline, at equal steps\n", _differences(results)]
    parts += [f"## Until the baseline's final accuracy\n\n{DEFINITION}\n", _reached(results)]
    parts += [f"![held-out curves]({HELD_OUT})\n", f"![accuracy by tokens]({TOKENS})\n"]
    parts += ["## Training\n", _training(results), f"![training curves]({TRAINING})\n"]
    parts += ["## Time\n", _time(results), "## Made with\n", _made_with(plan)]
    return "\n".join(part for part in parts if part)


def _setting(results: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    config, seeds = plan["config"], results["seeds"]
    return (
        f"- policy: {config['model']}; tasks: {config['tasks']}; preset {config['preset']}\n"
        f"- {len(seeds)} runs of each arm, seeds {', '.join(map(str, seeds))}: "
        f"{results['steps']} steps of {config['prompts']} problems x {config['group_size']} "
        "episodes, the same problems for all arms of a seed\n"
        f"- held out: {results['tasks']} problems x {results['samples']}, the same for all arms of "
        f"a seed, after steps {', '.join(map(str, results['evaluated_steps']))}, with rollback off "
        "and on (on is SAAR as published for every arm: gamma 0.5, 3 retries)\n"
        f"- in brackets: 95% intervals by resampling {_resampled(seeds)}, the same resamples for "
        "all arms\n"
    )


def _resampled(seeds: Sequence[int]) -> str:
    return "seeds and problems" if len(seeds) > 1 else "problems (one seed says nothing of others)"


def _missing(results: Mapping[str, Any]) -> str:
    if not results["missing"]:
        return ""
    return (
        f"**Left out, because not finished or without their counterparts: "
        f"{'; '.join(results['missing'])}.**\n"
    )


def _arms(results: Mapping[str, Any]) -> str:
    rows = []
    for name, arm in results["arms"].items():
        changes = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in arm["changes"].items())
        mark = " (baseline)" if name == results["baseline"] else ""
        rows.append([f"{name}{mark}", arm["text"], f"`{changes}`"])
    return _table(["arm", "what it is", "settings of its own"], rows)


def _final(results: Mapping[str, Any], mode: str, last: str) -> str:
    names = list(results["arms"])
    rows = []
    for key, label, form in _FINAL + (_OF_ROLLBACK if mode == "on" else ()):
        cells = [results["held_out"][name][mode][last][key] for name in names]
        rows.append([label, *(_estimate(cell, form) for cell in cells)])
    for key, form in (("accuracy", "{:.1%}"), ("failed_calls", "{:.2f}")):
        label = f"{key.replace('_', ' ')} of each seed"
        cells = [results["held_out"][name][mode][last][key]["by_seed"] for name in names]
        rows.append([label, *(", ".join(_form(v, form) for v in cell) for cell in cells)])
    return _table(["", *names], rows)


def _differences(results: Mapping[str, Any]) -> str:
    if not results["differences"]:
        return "There is one arm only.\n"
    text = "Arm less baseline; accuracy in points. Paired by seed and problem.\n\n"
    rows = []
    for name, modes in results["differences"].items():
        for mode, of_step in modes.items():
            for key, scale in _SIGNED.items():
                cells = [_difference(values.get(key), scale) for values in of_step.values()]
                rows.append([name, _MODE[mode], key.replace("_", " "), *cells])
    heads = [f"step {step}" for step in results["evaluated_steps"]]
    return f"{text}{_table(['arm', '', '', *heads], rows)}\n{_by_seed(results)}"


def _by_seed(results: Mapping[str, Any]) -> str:
    """The differences after the last step, seed by seed."""
    last = str(results["evaluated_steps"][-1])
    rows = []
    for name, modes in results["differences"].items():
        for key, scale in _SIGNED.items():
            cell = modes["off"][last].get(key)
            if cell is None or cell["by_seed"] is None:
                continue
            form = "{:+.1f}" if scale == 100 else "{:+.2f}"
            seeds = ", ".join(form.format(value * scale) for value in cell["by_seed"])
            by_seeds = {**cell, "interval_95": cell["seeds_interval_95"]}
            both = [_difference(values, scale) for values in (cell, by_seeds)]
            rows.append([name, key.replace("_", " "), seeds, *both])
    heads = ["arm", "", "by seed", "95% interval, seeds and problems", "95% interval, seeds alone"]
    return (
        f"After step {last}, rollback off. The last column is Student's t over seeds: wide where "
        "they are few, and free of assumptions about problems.\n\n" + _table(heads, rows)
    )


def _reached(results: Mapping[str, Any]) -> str:
    reaching = results["reaching"]
    rows = [
        [
            name,
            _within(arm["steps"], arm["steps_interval_95"], "{:.1f}", _NEVER),
            _ratio(arm, "steps"),
            _NEVER if arm["tokens"] is None else _millions(arm["tokens"]),
            _ratio(arm, "tokens"),
            f"{arm['reached_in_resamples']:.0%}",
        ]
        for name, arm in reaching["arms"].items()
    ]
    heads = ["arm", "steps", "steps, ratio", "million sampled tokens", "tokens, ratio", "resamples"]
    return (
        f"Target: {reaching['target']:.1%}. Sampled tokens include those that rollback threw away. "
        "The last column says in how many of the resamples the target is reached.\n\n"
        + _table(heads, rows)
    )


def _training(results: Mapping[str, Any]) -> str:
    names = list(results["arms"])
    training = results["training"]
    rows = []
    for key, label, form in _TRAINED:
        curves = [training[name]["metrics"].get(key) for name in names]
        if any(curve is not None for curve in curves):
            cells = ["-" if c is None else _spread(c["last_by_seed"], form) for c in curves]
            rows.append([label, *cells])
    shares = [training[name]["shallow_share"] for name in names]
    rows.append(
        ["share of splices that are shallow, all steps", *(_form(s, "{:.0%}") for s in shares)]
    )
    totals = [_millions(fmean(training[name]["tokens_by_seed"])) for name in names]
    rows.append(["million sampled tokens, all steps", *totals])
    last = training[names[0]]["last_steps"]
    return (
        f"Means over the last {last} steps, with the arm's own rollback; ± is the standard "
        "deviation between seeds.\n\n" + _table(["", *names], rows)
    )


def _time(results: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{fmean(run[kind] for run in runs):.0f}" for kind in ("training", "evaluation"))]
        for name, runs in results["seconds"].items()
    ]
    return _table(["arm", "seconds of a run's steps", "of its evaluations"], rows)


def _made_with(plan: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in plan["made_with"].items())
    return (
        f"{versions}.\n\n`{plan['command']}`\n\nEvery figure is computed from the files of the "
        "runs: `python -m cleaner_rl.compare --report-only DIR` does it again.\n"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _estimate(cell: Mapping[str, Any], form: str) -> str:
    return _within(cell["value"], cell["interval_95"], form)


def _ratio(arm: Mapping[str, Any], of: str) -> str:
    """To the baseline's; a dash where the baseline was at its target from the start."""
    value, ends = arm[f"{of}_ratio"], arm[f"{of}_ratio_interval_95"]
    if value is None and arm[of] is not None:
        return "-"
    return _within(value, ends, "{:.2f}", _NEVER)


def _within(
    value: float | None,
    interval: Sequence[float | None] | None,
    form: str,
    nothing: str = "-",
) -> str:
    text = nothing if value is None else form.format(value)
    if interval is None:
        return text
    low, high = (nothing if end is None else form.format(end) for end in interval)
    return text if low == high == text else f"{text} [{low}, {high}]"


def _difference(cell: Mapping[str, Any] | None, scale: float) -> str:
    if cell is None:
        return "-"
    form = "{:+.1f}" if scale == 100 else "{:+.2f}"
    ends = cell["interval_95"]
    scaled = None if ends is None else [end * scale for end in ends]
    return _within(cell["value"] * scale, scaled, form)


def _spread(values: Sequence[float], form: str) -> str:
    mean = form.format(fmean(values))
    return mean if len(values) < 2 else f"{mean} ± {form.format(stdev(values))}"


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:.2f}"
