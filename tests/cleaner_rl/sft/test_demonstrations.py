"""Demonstrations: programs are right or wrong as labelled, and every bug really fails."""

from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer

from cleaner_env import make_format
from cleaner_env.formats import HermesFormat
from cleaner_env.interpreter import Sandbox
from cleaner_env.rewards import extract_boxed
from cleaner_env.rewards.scorers import reasoning_gym_scorer
from cleaner_env.task import Task
from cleaner_env.tasks.families import FAMILIES, SHORT_PROGRAMS
from cleaner_env.tasks.sources import ReasoningGymTasks
from cleaner_rl.config import PRESETS
from cleaner_rl.models.policy import bundled_directory
from cleaner_rl.sft.config import DemonstrationMix
from cleaner_rl.sft.demonstrations.bugs import INJECTORS
from cleaner_rl.sft.demonstrations.episodes import (
    Demonstration,
    DemonstrationError,
    generate_demonstrations,
    write_demonstration,
)
from cleaner_rl.sft.demonstrations.programs import PROGRAM_BOOK, program_book

MORE_FAMILIES = sorted(set(PROGRAM_BOOK) - set(FAMILIES))


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
    assert set(PROGRAM_BOOK) == {*FAMILIES, *SHORT_PROGRAMS}
    assert len(FAMILIES) >= 10


@pytest.mark.parametrize("family", FAMILIES)
def test_right_programs_score_one(family: str, tasks: list[Task], sandbox: Sandbox) -> None:
    for task in [task for task in tasks if task.family == family]:
        for program in PROGRAM_BOOK[family].programs(task.prompt, right=True):
            assert score(task, sandbox, program) == 1.0, program


@pytest.mark.parametrize("family", FAMILIES)
def test_some_wrong_program_scores_below_one(
    family: str, tasks: list[Task], sandbox: Sandbox
) -> None:
    for task in [task for task in tasks if task.family == family]:
        scores = [
            score(task, sandbox, program)
            for program in PROGRAM_BOOK[family].programs(task.prompt, right=False)
            if sandbox.run(program).ok
        ]
        assert min(scores) < 1.0


def test_programs_of_another_family_are_refused() -> None:
    with pytest.raises(ValueError, match="does not match the family's pattern"):
        PROGRAM_BOOK["gcd"].fields("Calculate 5 - 3.")


@pytest.mark.parametrize("injector", INJECTORS)
def test_injectors_only_edit(injector: str, tasks: list[Task]) -> None:
    edits = 0
    for task in tasks:
        for program in PROGRAM_BOOK[task.family].programs(task.prompt, right=True):
            for edit in INJECTORS[injector](program):
                edits += 1
                assert abs(len(edit) - len(program)) <= 35
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
    mix = DemonstrationMix()
    shares = {
        mix.buggy: [bool(d.bugs) for d in demonstrations],
        mix.two_bugs: [len(d.bugs) == 2 for d in demonstrations],
        mix.wrong: [not d.right for d in demonstrations],
    }
    for wanted, found in shares.items():
        assert sum(found) / len(found) == pytest.approx(wanted, abs=0.15)


def test_openings_do_not_betray_wrong_programs(demonstrations: list[Demonstration]) -> None:
    for demonstration in demonstrations:
        opening = demonstration.turns[0].text.partition("\n")[0]
        assert opening in PROGRAM_BOOK[demonstration.family].sentences


def test_same_seed_same_demonstrations(sandbox: Sandbox) -> None:
    first = list(generate_demonstrations(12, sandbox.run, seed=4))
    assert list(generate_demonstrations(12, sandbox.run, seed=4, threads=1)) == first


def test_a_sandbox_that_runs_nothing_is_reported() -> None:
    with pytest.raises(DemonstrationError, match="sandbox doctor"):
        list(generate_demonstrations(24, lambda code: _Failure()))


BOOK = program_book("reasoning-gym:short-programs")
NO_BUGS = DemonstrationMix(wrong=0.0, buggy=0.0, two_bugs=0.0)


@pytest.fixture(scope="module")
def short_tasks() -> list[Task]:
    source = ReasoningGymTasks(SHORT_PROGRAMS, split="train", seed=3)
    return [source[index] for index in range(12 * len(SHORT_PROGRAMS))]


def test_every_question_of_the_short_programs_is_known(short_tasks: list[Task]) -> None:
    assert len(SHORT_PROGRAMS) == 12
    assert [t.prompt for t in short_tasks if not BOOK[t.family].knows(t.prompt)] == []


@pytest.mark.parametrize("family", MORE_FAMILIES)
@pytest.mark.parametrize("right", [True, False])
def test_more_programs_are_right_or_wrong_as_they_say(
    family: str, right: bool, short_tasks: list[Task], sandbox: Sandbox
) -> None:
    for task in [task for task in short_tasks if task.family == family][:5]:
        for program in PROGRAM_BOOK[family].programs(task.prompt, right=right):
            assert (score(task, sandbox, program) == 1.0) == right, (task, program)


@pytest.mark.parametrize(
    ("family", "question"),
    [
        ("leg_counting", "how many legs are there in total if you have 3 unicorns?"),
        ("time_intervals", "What is the duration between 03:40:27.353 and 08:52:15.008? HH:MM:SS."),
        ("time_intervals", "How much time elapsed from 2964-06-17 08:15 to 2964-07-04 11:59? Give"),
        ("number_filtering", "Keep all numbers in this list: ['1']"),
    ],
)
def test_a_question_without_programs_is_passed_over(family: str, question: str) -> None:
    assert not PROGRAM_BOOK[family].knows(question)


def test_demonstrations_of_short_programs_are_right_and_really_executed(sandbox: Sandbox) -> None:
    source = ReasoningGymTasks(SHORT_PROGRAMS, split="train", seed=5)
    made = list(
        generate_demonstrations(24, sandbox.run, mix=NO_BUGS, tasks=source, book=BOOK, threads=1)
    )
    assert {demonstration.family for demonstration in made} == set(SHORT_PROGRAMS)
    for demonstration in made:
        (code,) = codes_of(demonstration)
        call, answer = demonstration.turns
        assert call.observation == sandbox.run(code).stdout.strip()
        assert demonstration.right and extract_boxed(answer.text) == call.observation


def test_calls_are_written_in_the_format_of_the_policy(sandbox: Sandbox) -> None:
    (made,) = generate_demonstrations(1, sandbox.run, mix=NO_BUGS, format=make_format("llama3"))
    assert '"parameters"' in made.turns[0].text and "<tool_call>" not in made.turns[0].text


def test_prompts_fit_the_preset_even_in_the_tokens_of_a_tiny_vocabulary(
    short_tasks: list[Task],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_directory())
    longest = max(len(tokenizer(task.prompt)["input_ids"]) for task in short_tasks)
    assert longest + 40 <= PRESETS["smollm2"].max_prompt_tokens


class _Failure:
    ok = False
    stdout = ""
    error_class = "OSError"
