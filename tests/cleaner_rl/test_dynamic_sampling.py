"""Dynamic sampling: groups whose rewards are all the same make room for others."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from cleaner_env import Episode, Task
from cleaner_rl import train
from cleaner_rl.config import PRESETS
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.settings import change

PROMPTS = 4


class Numbers:
    """Problem ``i`` asks for ``i``."""

    def __getitem__(self, index):
        return Task(str(index), "1")


def scripted_episode(reward):
    splices = [SimpleNamespace(purified=object())] if reward > 1 else []
    stats = SimpleNamespace(failures=int(reward < 1), calls=1)
    return SimpleNamespace(
        reward=min(reward, 1.0), rollbacks=splices, correct=reward > 0, stats=stats
    )


@pytest.fixture
def play(monkeypatch):
    """Plays a step on a script: for each round the rewards of every group, 2 for a right episode
    with a splice."""

    def play(*rounds, dynamic_sampling, step=1, **settings):
        calls = []

        def scripted(tasks, trainer, step, progress, refill=0):
            calls.append([int(task.prompt) for task in tasks])
            assert refill == len(calls) - 1
            return [[scripted_episode(reward) for reward in rewards] for rewards in rounds[refill]]

        monkeypatch.setattr(train, "play_groups", scripted)
        config = change(
            PRESETS["tiny"],
            prompts=PROMPTS,
            minibatch_prompts=PROMPTS,
            dynamic_sampling=dynamic_sampling,
            **{"credit": "purified", **settings},
        )
        rollout = SimpleNamespace(prompt_length=lambda task: 1, response_length=lambda episode: 1)
        trainer = SimpleNamespace(
            config=config, rollout=rollout, source=Numbers(), ranks=Ranks("cpu")
        )
        played, kept, _ = train.play_step(trainer, step, None)
        return calls, [group.rewards for group in played], [group.rewards for group in kept]

    return play


SAME, OTHER = [1.0, 1.0], [0.0, 1.0]


def test_off_keeps_every_group(play):
    calls, rewards, taught = play([SAME, OTHER, SAME, SAME], dynamic_sampling=0)
    assert calls == [[0, 1, 2, 3]]
    assert taught == rewards == [SAME, OTHER, SAME, SAME]


def test_groups_without_signal_are_replaced(play):
    calls, rewards, taught = play(
        [SAME, OTHER, SAME, OTHER], [SAME, OTHER], [OTHER], dynamic_sampling=5
    )
    assert [len(call) for call in calls] == [4, 2, 1]
    assert len(rewards) == 7
    assert taught == [OTHER] * 4


def test_branches_are_a_signal_of_their_own_under_branched(play):
    mended = [1.0, 2.0]  # both right, one after a splice
    groups = [SAME, mended, OTHER, mended]
    calls, _, taught = play(groups, [SAME], dynamic_sampling=1, credit="branched")
    assert [len(call) for call in calls] == [4, 1]
    assert taught == [SAME, OTHER, SAME]
    _, _, taught = play(groups, [SAME] * 3, dynamic_sampling=1)
    assert taught == [OTHER]


def test_under_roc_the_episodes_that_are_kept_have_to_differ(play):
    penalised = [1.0, 1.0, 0.8, 0.8]  # all right; the two without a failure are kept
    differ = [1.0, 1.0, 0.0, 0.0]
    calls, _, taught = play(
        [penalised, differ, differ, differ], [SAME], dynamic_sampling=1, saar="roc", group_size=2
    )
    assert [len(call) for call in calls] == [4, 1]
    assert list(map(sorted, taught)) == [[0.0, 1.0]] * 3


def test_rounds_are_bounded(play):
    calls, _, taught = play([SAME] * 4, [SAME] * 4, [SAME] * 3 + [OTHER], dynamic_sampling=2)
    assert len(calls) == 3
    assert taught == [OTHER]


def test_problems_of_rounds_and_steps_do_not_meet(play):
    drawn = []
    for step in (1, 2, 3):
        calls, *_ = play([SAME] * 4, [SAME] * 4, [SAME] * 4, dynamic_sampling=2, step=step)
        drawn += [index for call in calls for index in call]
    assert len(set(drawn)) == len(drawn) == 36


def test_the_steps_own_problems_are_those_without_dynamic_sampling(play):
    calls, *_ = play([OTHER] * 4, dynamic_sampling=2, step=3)
    assert calls == [[8, 9, 10, 11]]


def test_episodes_of_a_step_have_their_own_seeds():
    """Seeds of refills go on where those of the step's own episodes end."""
    seeds = []

    class Recorder:
        def play(self, tasks, seed, on_progress):
            seeds.append((seed, len(tasks)))
            return [Episode(Task("?", "1"), []) for _ in tasks]

    config = replace(PRESETS["tiny"], dynamic_sampling=2)
    policy = SimpleNamespace(device=torch.device("cpu"), decode=str)
    trainer = SimpleNamespace(config=config, rollout=Recorder(), ranks=Ranks("cpu"), policy=policy)
    for refill in range(3):
        train.play_groups([Task("?", "1")] * config.prompts, trainer, 1, None, refill)
    assert all(a + n == b for (a, n), (b, _) in pairwise(seeds))
