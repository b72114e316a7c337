"""The environment among Gymnasium's own tools: wrappers, copies by spec, vector environments."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from scripted import call

from cleaner_env import CodeToolEnv, SAARWrapper

ID = "cleaner_env:CleanerCodeTool-v0"
TASK = {"prompt": "What is 6*7?", "answer": "42"}
BUG, FIX = call("print(6 * x)"), call("print(6 * 7)")
ANSWER = r"\boxed{42}"


@pytest.fixture
def make(sandbox):
    def make(*around, inside=(), **saar):
        """An environment with wrappers inside of SAAR's and around it."""
        env = gym.wrappers.OrderEnforcing(
            gym.wrappers.PassiveEnvChecker(CodeToolEnv([TASK], sandbox=sandbox))
        )
        for wrap in inside:
            env = wrap(env)
        env = SAARWrapper(env, **saar)
        for wrap in around:
            env = wrap(env)
        env.reset(seed=0)
        return env

    return make


def play(env, *actions):
    return [env.step(action) for action in actions][-1]


def test_statistics_around_the_wrapper_count_what_the_agent_sent(make):
    env = make(wrappers.RecordEpisodeStatistics)
    *_, info = play(env, BUG, FIX, ANSWER)
    assert (info["episode"]["l"], info["episode"]["r"]) == (3, 1.0)


def test_rewards_transformed_inside_arrive_through_a_splice(make):
    env = make(inside=[lambda env: wrappers.TransformReward(env, lambda reward: reward - 0.25)])
    assert play(env, BUG)[1] == -0.25
    assert play(env, FIX)[1] == -0.25
    assert play(env, ANSWER)[1] == 0.75


def test_rewards_transformed_inside_arrive_with_the_note(make):
    env = make(
        inside=[lambda env: wrappers.TransformReward(env, lambda reward: reward - 0.25)],
        max_retries=2,
    )
    observation, reward, *_ = play(env, BUG, BUG, BUG)
    assert (observation.endswith("Try another approach."), reward) == (True, -0.25)


def test_time_limit_inside_ends_the_episode_in_the_buffer_too(make):
    env = make(inside=[lambda env: wrappers.TimeLimit(env, 2)])
    _, _, terminated, truncated, info = play(env, BUG, BUG)
    assert (terminated, truncated, info["lookahead"]) == (False, True, False)
    assert env.episode.truncated
    assert [record.outcome for record in env.episode.rollbacks] == ["cut_off"]


def test_time_limit_around_counts_lookaheads_as_steps(make):
    env = make(lambda env: wrappers.TimeLimit(env, 2))
    assert play(env, BUG)[3] is False
    assert play(env, FIX)[3] is True


def test_order_is_enforced_through_the_wrapper(sandbox):
    env = SAARWrapper(gym.make(ID, tasks=[TASK]))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(ANSWER)
    env.close()


def test_a_copy_by_spec_has_the_wrappers_and_their_arguments():
    env = gym.make(ID, tasks=[TASK], max_turns=3)
    env = wrappers.RecordEpisodeStatistics(SAARWrapper(env, gamma=0.7, mode="deep-only"))
    copy = env.spec.make()
    assert str(copy) == str(env)
    saar = copy.env
    assert (saar.gamma, saar.mode, copy.unwrapped.max_turns) == (0.7, "deep-only", 3)
    copy.reset(seed=0)
    assert copy.step(ANSWER)[1] == 1.0
    env.close()
    copy.close()


def test_a_spec_makes_environments():
    env = gym.spec("CleanerCodeTool-v0").make(tasks=[TASK])
    assert env.reset()[0] == TASK["prompt"]
    env.close()


@pytest.fixture
def registered():
    """An id whose registration carries SAAR."""
    saar = SAARWrapper.wrapper_spec(gamma=0.7, max_retries=2)
    entry = "cleaner_env.env:CodeToolEnv"
    kwargs = {"tasks": [TASK]}
    gym.register("CodeToolWithSAAR-v0", entry, kwargs=kwargs, additional_wrappers=(saar,))
    yield "CodeToolWithSAAR-v0"
    del gym.registry["CodeToolWithSAAR-v0"]


def test_an_id_may_carry_the_wrapper_and_its_arguments(registered):
    env = gym.make(registered)
    assert (env.get_wrapper_attr("gamma"), env.get_wrapper_attr("max_retries")) == (0.7, 2)
    assert str(env.spec.make()) == str(env)
    env.reset()
    assert env.step(BUG)[4]["lookahead"] is True
    env.close()


def test_a_spec_may_carry_the_wrapper_through_json():
    spec = gym.spec("CleanerCodeTool-v0")
    spec = replace(spec, additional_wrappers=(SAARWrapper.wrapper_spec(gamma=0.6),))
    env = gym.make(gym.envs.registration.EnvSpec.from_json(spec.to_json()), tasks=[TASK])
    assert env.get_wrapper_attr("gamma") == 0.6
    env.close()


@pytest.fixture(params=["sync", "async"])
def make_vec(request, registered):
    """Makes two environments with SAAR side by side."""
    made = []

    def make(mode, **options):
        vector = {"autoreset_mode": mode}
        kind = request.param
        made.append(gym.make_vec(registered, 2, kind, vector_kwargs=vector, **options))
        made[-1].reset(seed=0)
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def test_autoreset_at_the_next_step_leaves_the_ended_episode_until_then(make_vec):
    envs = make_vec(AutoresetMode.NEXT_STEP)
    _, rewards, terminated, _, info = envs.step((ANSWER, BUG))
    assert (list(rewards), list(terminated)) == ([1.0, 0.0], [True, False])
    assert info["score"][0] == 1.0 and list(info["lookahead"]) == [False, True]
    ended, other = envs.get_attr("episode")
    assert ended.correct and other.turns[0].failed
    observations, rewards, *_, info = envs.step((FIX, FIX))  # the first action goes nowhere
    assert tuple(observations) == (TASK["prompt"], "42")
    assert list(info["turn"]) == [0, 1]
    assert envs.get_attr("episode")[1].stats.recovered == 1


def test_autoreset_in_the_same_step_gives_the_end_in_final_info(make_vec):
    envs = make_vec(AutoresetMode.SAME_STEP)
    observations, rewards, terminated, _, info = envs.step((ANSWER, BUG))
    assert (list(rewards), list(terminated)) == ([1.0, 0.0], [True, False])
    assert observations[0] == TASK["prompt"] and info["final_obs"][0] == ""
    assert info["final_info"]["score"][0] == 1.0
    assert info["final_info"]["messages"][0][-1]["content"] == ANSWER
    # The buffer is the new episode's already: the one that ended is gone.
    assert [len(episode.turns) for episode in envs.get_attr("episode")] == [0, 1]
    observations, *_ = envs.step((FIX, FIX))
    assert tuple(observations) == ("42", "42")


def test_without_autoreset_the_ended_episodes_are_reset_by_a_mask(make_vec):
    envs = make_vec(AutoresetMode.DISABLED)
    _, _, terminated, *_ = envs.step((ANSWER, BUG))
    observations, info = envs.reset(options={"reset_mask": terminated})
    assert list(info["turn"][:1]) == [0]
    observations, *_ = envs.step((FIX, FIX))
    assert tuple(observations) == ("42", "42")
    assert [episode.stats.recovered for episode in envs.get_attr("episode")] == [0, 1]


def test_a_lookahead_does_not_reach_into_the_next_episode(sandbox):
    limit = partial(wrappers.TimeLimit, max_episode_steps=1)
    envs = gym.make_vec(ID, 1, "sync", wrappers=[SAARWrapper, limit], tasks=[TASK], sandbox=sandbox)
    envs.reset(seed=0)
    *_, truncated, info = envs.step((BUG,))
    assert truncated[0] and info["lookahead"][0]
    envs.step((FIX,))  # resets
    *_, info = envs.step((BUG,))
    assert envs.get_attr("episode")[0].turns[0].code == "print(6 * x)"
    envs.close()


def test_one_seed_reproduces_tasks_and_rollback_draws():
    tasks = [{"prompt": str(i), "answer": "0"} for i in range(50)]

    def drawn():
        env = SAARWrapper(CodeToolEnv(tasks), rollback_probability=0.5)
        env.reset(seed=11)
        return [(env.reset()[0], env.episode.rollback) for _ in range(20)]

    assert drawn() == drawn()
    assert len(set(drawn())) > 10


VECTORISED = {"messages", "turn", "family", "error_class", "call_ok", "lookahead"}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environment(mode):
    envs = gym.make_vec(
        ID, num_envs=3, vectorization_mode=mode, wrappers=[SAARWrapper], tasks=[TASK]
    )
    observations, info = envs.reset(seed=0)
    assert tuple(observations) == (TASK["prompt"],) * 3
    assert "call_ok" not in info
    observations, rewards, terminated, _, info = envs.step((BUG, FIX, ANSWER))
    assert "NameError" in observations[0] and tuple(observations[1:]) == ("42", "")
    assert list(rewards) == [0.0, 0.0, 1.0] and list(terminated) == [False, False, True]
    assert set(info) >= VECTORISED
    assert list(info["_call_ok"]) == [True, True, False]  # the third had no call
    assert list(info["call_ok"][:2]) == [False, True]
    assert list(info["lookahead"]) == [True, False, False]
    assert info["messages"][1][-1] == {"role": "tool", "content": "42"}
    observations, *_ = envs.step((FIX, FIX, FIX))
    assert observations[0] == "42" and observations[2] == TASK["prompt"]  # the third began anew
    envs.close()


def test_vector_environments_differ_in_their_tasks():
    tasks = [{"prompt": str(i), "answer": "0"} for i in range(1000)]
    envs = gym.make_vec(ID, num_envs=4, vectorization_mode="sync", tasks=tasks)
    observations, _ = envs.reset(seed=5)
    assert len(set(observations)) == 4
    assert envs.reset(seed=5)[0] == observations
    envs.close()


@pytest.mark.parametrize(
    ("number", "terminate"),
    [pytest.param(16, False, marks=pytest.mark.slow), (2, False), (2, True)],
)
def test_async_environments_leave_no_process_behind(number, terminate, sandbox):
    envs = gym.make_vec(ID, num_envs=number, vectorization_mode="async", tasks=[TASK])
    envs.reset(seed=0)
    observations, *_ = envs.step((FIX,) * number)
    assert tuple(observations) == ("42",) * number
    started = descendants({process.pid for process in envs.unwrapped.processes})
    assert len(started) >= 2 * number  # a process each, and its sandbox
    envs.close(terminate=terminate)
    deadline = time.monotonic() + 10
    while (left := alive(started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def descendants(roots):
    """Ids of these processes and of all below them."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, below = set(roots), set(roots)
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found |= below
    return found


def alive(pids):
    """Those that still run; a dead child that nobody waited for does not."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.add(pid)
    return running
