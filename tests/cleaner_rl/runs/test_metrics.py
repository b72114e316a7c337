"""The table of metrics: an episode just played and the same one saved give equal numbers."""

import pytest

from cleaner_env import Completion, Episode, Task
from cleaner_env.episode import Turn
from cleaner_env.episode_io import episode_to_dict
from cleaner_env.formats.protocol import ParsedTurn
from cleaner_rl.runs.metrics import LABELS, METRICS, EpisodeSummary, episode_metrics


def episode(*worked: bool) -> Episode:
    """An episode with an answer after calls of which some worked."""
    parsed = ParsedTurn("text", None, None, None, 4)
    turns = [Turn(Completion("text"), parsed, "shown", ok) for ok in (*worked, None)]
    return Episode(Task("1+1?", "2"), [], turns, turns, answer="2", score=1.0, terminated=True)


def test_saved_episodes_count_as_played_ones():
    played = episode(False, True, False)
    row = {"problem": 0, "seconds": 0.0, "episode": episode_to_dict(played)}
    fresh, saved = EpisodeSummary.of(played), EpisodeSummary.read(row)
    for name in METRICS:
        if name not in ("tokens_sampled", "tokens_discarded"):  # nobody counted them
            assert METRICS[name].part(fresh) == METRICS[name].part(saved), name
    assert METRICS["tokens_sampled"].part(saved) == (0, 0)


def test_shares_of_calls_are_taken_over_the_episodes_that_have_some():
    metrics = episode_metrics([episode(), episode(False, True), episode(True, False)])
    assert metrics["first_call_failed"] == 1 / 2
    assert metrics["recovery"] == 1 / 2
    assert metrics["failed_calls"] == pytest.approx(2 / 3)


def test_without_episodes_there_is_nothing_to_count():
    assert set(episode_metrics([]).values()) == {0.0}


def test_every_metric_has_a_label_of_its_own():
    labels = [label for label, _ in LABELS.values()]
    assert len(set(labels)) == len(labels) == len(LABELS) >= len(METRICS)
