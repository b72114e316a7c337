"""The bounds on an episode hold even for the most stubborn policy."""

from dataclasses import replace

import pytest
from scripted import call, sampled

from cleaner_env import CodeToolEnv, SAARWrapper, Task
from cleaner_rl.config import PRESETS
from cleaner_rl.scaling import episode_bounds

CONFIG = replace(PRESETS["tiny"].episode, max_turns=2, max_retries=2, code_seconds=0.5)


def play(sandbox, config, programs):
    """Calls of an episode whose policy never stops calling."""
    env = CodeToolEnv([Task("?", "1")], max_turns=config.max_turns, sandbox=sandbox)
    env = SAARWrapper(
        env, max_retries=config.max_retries, mode="off" if config.saar == "off" else "saar"
    )
    env.reset(seed=0)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(sampled(call(next(programs))))
        over = terminated or truncated
    return env.get_wrapper_attr("episode").stats


def fails_until_the_last_retry(retries):
    while True:
        yield from ["1 / 0"] * retries
        yield "print(1)"


def test_the_worst_episode_reaches_the_bound_and_not_more(sandbox):
    stats = play(sandbox, CONFIG, fails_until_the_last_retry(2))
    assert stats.calls == episode_bounds(CONFIG).programs == 1 * 3 + 1


def test_without_rollback_a_position_has_one_turn(sandbox):
    config = replace(CONFIG, saar="off")
    assert play(sandbox, config, fails_until_the_last_retry(9)).calls == 2
    assert episode_bounds(config).programs == 2


def test_tokens_and_seconds_are_those_of_the_turns():
    bounds = episode_bounds(replace(CONFIG, max_calls=3))
    assert bounds.turns == 4 and bounds.programs == 12
    assert bounds.program_seconds == pytest.approx(6.0)
    assert bounds.tokens == 4 * CONFIG.max_turn_tokens
