"""Programs built from GSM8K's calculator annotations."""

import os
import random
from pathlib import Path

import pytest

from cleaner_env.tasks.load import first_tasks, load_tasks
from cleaner_rl.sft.config import DemonstrationMix
from cleaner_rl.sft.demonstrations.episodes import generate_demonstrations
from cleaner_rl.sft.demonstrations.gsm8k import Gsm8kPrograms
from cleaner_rl.sft.demonstrations.programs import program_book

DATA = Path(os.environ.get("CLEANER_DATA", Path(__file__).parents[4] / "shared" / "data"))
CLIPS = (
    "Natalia sold clips to 48 friends, and half as many in May. How many altogether?",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "She sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72",
)


def program(question, solution, right=True):
    programs = Gsm8kPrograms.of({question: solution})
    if not programs.knows(question):
        return None
    return programs.draw(question, random.Random(0), right=right)


def test_steps_become_variables_named_after_their_results():
    assert program(*CLIPS) == (
        "clips_may = 48 / 2\nclips_altogether = 48 + clips_may\nprint(round(clips_altogether))"
    )


def test_the_wrong_program_stops_a_step_too_early():
    assert program(*CLIPS, right=False).endswith("print(round(clips_may))")


def test_whole_numbers_are_printed_as_they_are():
    code = program("3 boxes of 4 pens?", "There are 3*4=<<3*4=12>>12 pens.\n#### 12")
    assert code == "pens = 3 * 4\nprint(pens)"


def test_a_name_that_is_taken_gets_a_number():
    code = program("3 and 40?", "<<3*40=120>>120 pens, <<120+3=123>>123 pens\n#### 123")
    assert code == "pens = 3 * 40\npens_2 = pens + 3\nprint(pens_2)"


def test_a_result_that_the_question_has_as_well_is_the_result_at_first():
    code = program("Of 40, 8 fives?", "<<8*5=40>>40 coins, <<40+40=80>>80 cents\n#### 80")
    assert code == "coins = 8 * 5\ncents = coins + 40\nprint(cents)"


@pytest.mark.parametrize("word", ["class", "print", "round", ""])
def test_words_that_cannot_be_names_are_not_used(word):
    assert program("6?", f"<<6*6=36>>36 {word}\n#### 36") == "result = 6 * 6\nprint(result)"


@pytest.mark.parametrize(
    ("question", "solution"),
    [
        ("How many of 90?", "Half is 45, so <<45*2=90>>90\n#### 90"),  # 45: from nowhere
        ("What of 90?", "It is <<90=90>>90, that is 91.\n#### 91"),  # ends before the answer
        ("What of 90?", "x = <<90-x=3>>3\n#### 3"),  # algebra
        ("What of 90?", "x = <<90--=3>>3\n#### 3"),  # no expression
        ("What of 90?", "It is 90.\n#### 90"),  # no annotation
    ],
)
def test_no_program_comes_from_a_solution_that_computes_in_its_head(question, solution):
    assert program(question, solution) is None


@pytest.mark.skipif(
    not (DATA / "gsm8k_train.jsonl").exists(),
    reason=f"no data sets in {DATA}; CLEANER_DATA names another directory",
)
def test_programs_of_the_real_file_compute_its_answers(sandbox):
    tasks = f"gsm8k:{DATA / 'gsm8k_train.jsonl'}"
    book = program_book(tasks)
    assert len(book["gsm8k"].steps) > 5000
    source, mix = load_tasks(tasks, "train"), DemonstrationMix(wrong=0.0, buggy=0.5)
    made = list(
        generate_demonstrations(40, sandbox.run, mix=mix, tasks=source, book=book, threads=1)
    )
    answers = {
        task.prompt: float(task.answer.replace(",", "")) for task in first_tasks(source, 400)
    }
    for demonstration in made:
        *_, call, answer = demonstration.turns
        assert answer.text == f"The answer is \\boxed{{{call.observation}}}."
        assert float(call.observation) == float(answers[demonstration.prompt])
