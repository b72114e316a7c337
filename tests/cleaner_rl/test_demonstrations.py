"""Demonstrations: programs are right or wrong as labelled, and every bug really fails."""

from __future__ import annotations

import random

import pytest

from cleaner_env.families import FAMILIES
from cleaner_env.interpreter import Sandbox
from cleaner_env.rewards import extract_boxed
from cleaner_env.tasks import ReasoningGymTasks, Task, reasoning_gym_scorer
from cleaner_env.toolcall import HermesFormat
from cleaner_rl.demonstrations import (
    Demonstration,
    DemonstrationError,
    DemonstrationMix,
    generate_demonstrations,
    write_demonstration,
)
from cleaner_rl.demonstrations.bugs import INJECTORS
from cleaner_rl.demonstrations.programs import PROGRAM_BOOK


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    source = ReasoningGymTasks(split="train", seed=3)
    return [source[index] for index in range(3 * len(FAMILIES))]


@pytest.fixture(scope="module")
def demonstrations(sandbox: Sandbox) -> list[Demonstration]:
    return list(generate_demonstrations(96, sandbox.run, seed=11))


def score(task: Task, sandbox: Sandbox, code: str) -> float:
    result = sandbox.run(code)
    assert result.ok, result.traceback
    return float(reasoning_gym_scorer(task.family)(result.stdout.strip(), task.entry))


def codes_of(demonstration: Demonstration) -> list[str]:
    codes = [HermesFormat().parse(turn.text).code for turn in demonstration.turns[:-1]]
    assert None not in codes
    return [code for code in codes if code is not None]


def test_every_family_has_programs() -> None:
    assert set(PROGRAM_BOOK) == set(FAMILIES)
    assert len(FAMILIES) >= 10


@pytest.mark.parametrize("family", FAMILIES)
def test_right_programs_score_one(family: str, tasks: list[Task], sandbox: Sandbox) -> None:
    for task in [task for task in tasks if task.family == family]:
        for variant in PROGRAM_BOOK[family].variants(task.prompt, right=True):
            assert score(task, sandbox, variant.code) == 1.0, variant.code


@pytest.mark.parametrize("family", FAMILIES)
def test_some_wrong_program_scores_below_one(
    family: str, tasks: list[Task], sandbox: Sandbox
) -> None:
    for task in [task for task in tasks if task.family == family]:
        scores = [
            score(task, sandbox, variant.code)
            for variant in PROGRAM_BOOK[family].variants(task.prompt, right=False)
            if sandbox.run(variant.code).ok
        ]
        assert min(scores) < 1.0


def test_programs_of_another_family_are_refused() -> None:
    with pytest.raises(ValueError, match="does not match the family's pattern"):
        PROGRAM_BOOK["gcd"].fields("Calculate 5 - 3.")


@pytest.mark.parametrize("injector", INJECTORS)
def test_injectors_only_edit(injector: str, tasks: list[Task]) -> None:
    edits = 0
    for task in tasks:
        for variant in PROGRAM_BOOK[task.family].variants(task.prompt, right=True):
            for edit in INJECTORS[injector](variant.code):
                edits += 1
                assert abs(len(edit) - len(variant.code)) <= 35
    assert edits > 0


def test_every_injected_bug_fails_and_every_last_program_runs(
    demonstrations: list[Demonstration], sandbox: Sandbox
) -> None:
    for demonstration in demonstrations:
        *failing, last = codes_of(demonstration)
        assert len(failing) == len(demonstration.bugs)
        assert not any(sandbox.run(code).ok for code in failing)
        assert sandbox.run(last).ok


def test_observations_are_real(demonstrations: list[Demonstration]) -> None:
    for demonstration in demonstrations:
        *failing, last, answer = demonstration.turns
        assert all("Error: " in (turn.observation or "") for turn in failing)
        assert extract_boxed(answer.text) == last.observation
        assert answer.observation is None


def test_label_is_the_score(tasks: list[Task], sandbox: Sandbox) -> None:
    for task in tasks:
        demonstration = write_demonstration(
            task, sandbox.run, random.Random(5), DemonstrationMix(buggy=0.0, two_bugs=0.0)
        )
        assert demonstration is not None
        boxed = extract_boxed(demonstration.turns[-1].text)
        assert (reasoning_gym_scorer(task.family)(boxed, task.entry) == 1.0) == demonstration.right


def test_shares_follow_the_mix(demonstrations: list[Demonstration]) -> None:
    buggy = sum(bool(demonstration.bugs) for demonstration in demonstrations)
    wrong = sum(not demonstration.right for demonstration in demonstrations)
    assert 0.35 < buggy / len(demonstrations) < 0.7
    assert 0.2 < wrong / len(demonstrations) < 0.5


def test_openings_do_not_betray_wrong_programs(demonstrations: list[Demonstration]) -> None:
    for demonstration in demonstrations:
        opening = demonstration.turns[0].text.partition("\n")[0]
        assert opening in PROGRAM_BOOK[demonstration.family].sentences


def test_same_seed_same_demonstrations(sandbox: Sandbox) -> None:
    first = list(generate_demonstrations(12, sandbox.run, seed=4))
    assert list(generate_demonstrations(12, sandbox.run, seed=4, threads=1)) == first


def test_json_round_trip(demonstrations: list[Demonstration]) -> None:
    for demonstration in demonstrations[:12]:
        assert Demonstration.from_json(demonstration.to_json()) == demonstration


def test_a_sandbox_that_runs_nothing_is_reported() -> None:
    with pytest.raises(DemonstrationError, match="sandbox doctor"):
        list(generate_demonstrations(24, lambda code: _Failure()))


@pytest.mark.parametrize("name", ["wrong", "buggy", "other_program"])
def test_shares_must_be_shares(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DemonstrationMix(**{name: 1.5})


class _Failure:
    ok = False
    stdout = ""
    error_class = "OSError"
