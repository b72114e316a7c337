"""Trainings in their own processes, forked from one that has already imported everything."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

from cleaner_env import Completion, Episode
from cleaner_env.episode import Turn
from cleaner_env.formats.protocol import ParsedTurn

FORKS = multiprocessing.get_context("forkserver")

FEW = [
    *("--system-prompt", "none", "--prompts", "2", "--minibatch-prompts", "1"),
    *("--group-size", "2", "--max-turn-tokens", "8", "--max-response-tokens", "24"),
    *("--eval-tasks", "0", "--save-every", "1", "--pack-tokens", "40", "--device", "cpu"),
]
"""Arguments of a training on random weights that takes moments."""


@cache
def warm_up() -> None:
    """Start the server that processes are forked from, with everything imported."""
    FORKS.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def start(arguments: Sequence[str], log: Path, *scripts: str, ranks: int = 1) -> list:
    """Begin a training in ``ranks`` processes, which write to ``log`` with their number added."""
    warm_up()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
        process = FORKS.Process(
            target=_train,
            args=([*map(str, arguments)], Path(f"{log}{rank}"), environment, scripts),
        )
        process.start()
        processes.append(process)
    return processes


def finish(processes: Sequence, seconds: float = 60.0) -> list[int]:
    """The exit statuses; a process that does not end is killed, with status -9."""
    for process in processes:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _train(
    arguments: list[str], log: Path, environment: dict[str, int], scripts: Sequence[str]
) -> None:
    import torch

    from cleaner_rl.errors import run_command
    from cleaner_rl.train import main

    os.environ.update({name: str(value) for name, value in environment.items()})
    os.environ["MASTER_ADDR"] = "localhost"
    torch.set_num_threads(1)
    with log.open("a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    for name in scripts:
        SCRIPTS[name]()
    with suppress(BrokenPipeError):
        run_command(lambda: main(arguments))


def draw_nothing() -> None:
    """Figures are saved as empty files from here on: drawing one takes longer than a training."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda self, path, **_: Path(path).touch()


def _reward_differs() -> None:
    """Random weights never earn anything; this reward differs within groups."""
    import cleaner_rl.train

    cleaner_rl.train._reward = lambda episode, *_: float(len(episode.turns[0].text))


def _episodes_by_seed() -> None:
    """Episodes depend on their seeds alone, as if the policy did not matter."""
    from cleaner_rl.rollout.rollout import Rollout

    def play(self, tasks, seed, on_progress=None):
        return [_episode(self, task, random.Random(seed + i)) for i, task in enumerate(tasks)]

    Rollout.play = play


def _token_without_numbers() -> None:
    """Token 7 has no embedding that is a number."""
    import cleaner_rl.trainer

    load = cleaner_rl.trainer.load_policy

    def load_policy(*arguments):
        policy = load(*arguments)
        policy.model.get_input_embeddings().register_forward_hook(
            lambda _, inputs, output: output.masked_fill((inputs[0] == 7)[..., None], float("nan"))
        )
        return policy

    cleaner_rl.trainer.load_policy = load_policy


def _head_is_frozen() -> None:
    import cleaner_rl.trainer

    load = cleaner_rl.trainer.load_policy

    def load_policy(*arguments):
        policy = load(*arguments)
        policy.model.get_output_embeddings().requires_grad_(False)
        return policy

    cleaner_rl.trainer.load_policy = load_policy


def _episode(rollout, task, draw) -> Episode:
    size = rollout.policy.model.config.vocab_size
    ids = [draw.randrange(4, size) for _ in range(draw.randrange(3, 20))]
    turn = Completion.from_tokens(ids, [-1.0] * len(ids), rollout.policy.decode)
    parsed = ParsedTurn(str(turn), None, None, None, len(turn))
    turns = [Turn(turn, parsed)]
    prompt = [{"role": "user", "content": task.prompt}]
    earned = float(len(ids) > 10)
    return Episode(task, prompt, turns, list(turns), score=earned, reward=earned, terminated=True)


def _at_step(step: int, act: Callable[[], None], rank: int = 0) -> Callable[[], None]:
    """Do something on a rank in the playing of a step."""

    def script() -> None:
        from cleaner_rl.rollout.rollout import Rollout

        play, steps = Rollout.play, []

        def acting(self, *arguments, **named):
            steps.append(step)
            if len(steps) == step and int(os.environ["RANK"]) == rank:
                act()
            return play(self, *arguments, **named)

        Rollout.play = acting

    return script


def _rank_1_fails_in_evaluations() -> None:
    from cleaner_rl.rollout.rollout import Rollout

    if os.environ["RANK"] == "1":
        Rollout.stream = lambda *_, **__: _fail()


def _rank_1_has_no_held_out_tasks() -> None:
    import cleaner_rl.eval.held_out

    if os.environ["RANK"] == "1":
        cleaner_rl.eval.held_out.held_out_tasks = lambda _: _fail()


def _fail() -> None:
    from cleaner_rl.errors import OutageError

    raise OutageError("the sandbox is gone")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _rank_1_dies_in_the_checkpoint_of_step_2() -> None:
    import cleaner_rl.runs.checkpoint

    save, saved = cleaner_rl.runs.checkpoint.save, []  # that of step 0 has no moments to save

    def dying(*arguments: object, **named: object) -> object:
        saved.append(arguments)
        if len(saved) == 2 and os.environ["RANK"] == "1":
            _die()
        return save(*arguments, **named)

    cleaner_rl.runs.checkpoint.save = dying


def _rank_1_dies_before_it_loads() -> None:
    import cleaner_rl.trainer

    if os.environ["RANK"] == "1":
        cleaner_rl.trainer.load_policy = lambda *_: _die()


def _ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _fill_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def _out_of_memory() -> None:
    import torch

    import cleaner_rl.learner.update

    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    cleaner_rl.learner.update.token_logprobs = refuse


def _a_sign_takes_two_steps() -> None:
    import cleaner_rl.runs.trends

    cleaner_rl.runs.trends.STEPS = 2


SCRIPTS = {
    "reward differs": _reward_differs,
    "episodes by seed": _episodes_by_seed,
    "token 7 has no numbers": _token_without_numbers,
    "the head is frozen": _head_is_frozen,
    "rank 1 fails in step 2": _at_step(2, _fail, rank=1),
    "rank 1 fails in evaluations": _rank_1_fails_in_evaluations,
    "rank 1 has no held-out tasks": _rank_1_has_no_held_out_tasks,
    "rank 1 dies in step 2": _at_step(2, _die, rank=1),
    "rank 1 dies before it loads": _rank_1_dies_before_it_loads,
    "rank 1 dies in the checkpoint of step 2": _rank_1_dies_in_the_checkpoint_of_step_2,
    "rank 1 is asked to stop in step 2": _at_step(2, _ask_to_stop, rank=1),
    "a sign takes two steps": _a_sign_takes_two_steps,
    "the disk is full from step 2": _at_step(2, _fill_disk),
    "no memory in step 2": _at_step(2, _out_of_memory),
    "the sandbox fails in step 2": _at_step(2, _fail),
}
"""What may happen in a training, by name."""


def output(log: Path) -> str:
    """What a training wrote."""
    return log.read_text() if log.exists() else ""
