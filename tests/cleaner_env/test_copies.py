"""Copies of an environment in the middle of an episode, as tree search makes them."""

import pickle
from copy import deepcopy

import pytest
from scripted import call

from cleaner_env import CodeToolEnv, SAARWrapper, SandboxError
from sandbox import Limits, Sandbox

TASK = {"prompt": "What is 6*7?", "answer": "42"}
ANSWER = r"\boxed{42}"


@pytest.fixture
def sessions(sandbox):
    if sandbox.tier != "full":
        pytest.skip(f"needs tier full; this machine gives {sandbox.tier}")


@pytest.fixture(params=["stateless", "stateful"])
def stateful(request):
    if request.param == "stateful":
        request.getfixturevalue("sessions")
    return request.param == "stateful"


def test_a_copy_and_its_original_close_their_own_sandboxes(stateful):
    env = SAARWrapper(CodeToolEnv([TASK], stateful=stateful, limits=Limits(wall_s=9)))
    env.reset(seed=0)
    env.step(call("x = 1; print(x)"))
    copy = deepcopy(env)
    assert copy.step(call("x = 2; print(x)"))[0] == "2"
    assert copy.unwrapped._sandbox is not env.unwrapped._sandbox
    assert copy.unwrapped._sandbox.limits == Limits(wall_s=9)
    copy.close()
    assert env.step(call("print(x)" if stateful else "print(1)"))[0] == "1"
    assert [len(e.episode.turns) for e in (env, copy)] == [2, 2]
    env.close()


def test_a_copy_shares_a_shared_sandbox(sandbox, stateful):
    env = CodeToolEnv([TASK], sandbox=sandbox, stateful=stateful)
    env.reset(seed=0)
    env.step(call("x = 1; print(x)"))
    copy = deepcopy(env)
    assert copy.step(call("x = 2; print(x)"))[0] == "2"
    copy.close()
    assert env.step(call("print(x)" if stateful else "print(1)"))[0] == "1"
    assert env.step(ANSWER)[1:3] == (1.0, True)


def test_a_copy_in_a_lookahead_takes_the_same_state_back(sandbox, sessions):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=sandbox, stateful=True))
    env.reset(seed=0)
    env.step(call("x = [1]"))
    env.step(call("x.append(2); x.apend(3)"))
    copy = deepcopy(env)
    for one in (env, copy):
        assert one.step(call("x.append(3); print(x)"))[0] == "[1, 3]"
        one.close()


def test_a_copy_whose_programs_print_something_else_says_so(sessions):
    with Sandbox() as sandbox:
        env = CodeToolEnv([TASK], sandbox=sandbox, stateful=True)
        env.reset(seed=0)
        env.step(call("import time; print(time.time_ns())"))
        with pytest.raises(SandboxError, match="did not do the same again"):
            deepcopy(env).step(call("print(1)"))
        assert env.step(call("print(1)"))[0] == "1"


def test_an_environment_is_pickled_until_its_sandbox_runs():
    env = SAARWrapper(CodeToolEnv([TASK]))
    env.reset(seed=0)
    assert pickle.loads(pickle.dumps(env)).episode.task.prompt == TASK["prompt"]
    env.step(call("print(1)"))
    with pytest.raises(TypeError, match=r"gym\.make_vec"):
        pickle.dumps(env)
    env.close()
