"""verl's own worker plays rows with SAAR, and a script is the model. Run by .ci/integrations."""

import asyncio
import re
import shlex
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="needs an environment of its own: .ci/integrations")

import datasets
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scripted_rollouts import (
    BUNDLED,
    MAX_LENGTH,
    SCRIPTS,
    TASK,
    BrokenSandbox,
    ScriptedSandbox,
    expected,
    turns,
)
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.protocol import DataProto
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.rollout.replica import TokenOutput

from cleaner_env import SandboxError
from cleaner_env.integrations import verl as adapter
from cleaner_env.tasks.verl import verl_rows

ROOT = Path(__file__).parents[3]
PROMPT_LENGTH = 300
ROLLOUT = "actor_rollout_ref.rollout"
TOKENIZER = AutoTokenizer.from_pretrained(BUNDLED)


class ScriptedServer:
    """In place of verl's client of inference servers: gives the turns of a script, in order."""

    def __init__(self, script, logprobs=True, drop_stop=False):
        self.script = turns(TOKENIZER, script)
        self.logprobs, self.drop_stop = logprobs, drop_stop
        self.asked = []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        self.asked.append((request_id, list(prompt_ids), dict(sampling_params)))
        ids, logprobs = self.script.pop(0)
        stopped = ids[-1] == TOKENIZER.eos_token_id
        if stopped and self.drop_stop:
            ids, logprobs = ids[:-1], logprobs[:-1]
        version = 10 + len(self.asked)
        return TokenOutput(
            token_ids=ids,
            log_probs=logprobs if self.logprobs else None,
            stop_reason="completed" if stopped else "length",
            extra_fields={"min_global_steps": version, "max_global_steps": version},
        )


def config(*overrides):
    with initialize_config_dir(str(files("verl.trainer") / "config"), version_base=None):
        return compose("ppo_trainer", overrides)


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Plays one row with verl's worker, and returns what it makes of it."""

    def play(server, row=None, overrides=(), sandbox=None, how=old_trainer, **settings):
        monkeypatch.setattr(adapter, "shared_sandbox", lambda *_: sandbox or ScriptedSandbox())
        settings.setdefault("env", {"system_prompt": None})
        loop = "cleaner_env.integrations.verl.SaarAgentLoop"
        loops = [{"name": "cleaner_saar", "_target_": loop, "settings": settings}]
        OmegaConf.save(OmegaConf.create(loops), tmp_path / "loops.yaml")
        (own,) = verl_rows([TASK])
        rows = datasets.Dataset.from_list([own if row is None else row])
        rows.to_parquet(tmp_path / "rows.parquet")
        verls = config(
            f"actor_rollout_ref.model.path={BUNDLED}",
            f"{ROLLOUT}.agent.agent_loop_config_path={tmp_path}/loops.yaml",
            f"{ROLLOUT}.name=vllm",
            f"data.max_prompt_length={PROMPT_LENGTH}",
            f"data.max_response_length={MAX_LENGTH}",
            f"+data.cache_dir={tmp_path}",
            *overrides,
        )
        data = RLHFDataset(str(tmp_path / "rows.parquet"), TOKENIZER, verls.data)
        return how(verls, server, data[0])

    return play


def old_trainer(verls, server, row):
    """The batch that verl's worker makes of a row, with ``trainer.use_v1=false``."""
    batch = DataProto.from_single_dict(collate_fn([row]))
    return asyncio.run(AgentLoopWorker(verls, server).generate_sequences(batch))


def new_trainer(verls, server, row):
    """What verl's worker puts into the queue for a row, with ``trainer.use_v1=true``."""
    put = []

    async def async_kv_batch_put(fields, tags, **_):
        put.extend(zip(fields, tags, strict=True))

    async def async_kv_put(tag, **_):
        assert tag["status"] in ("running", "finished"), tag

    queue = SimpleNamespace(
        init=lambda: None, async_kv_put=async_kv_put, async_kv_batch_put=async_kv_batch_put
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_loop_tq, "tq", queue)
        worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class(verls, server)
        sampling = {"temperature": 1.0, "logprobs": True}
        info = {"step": 0, "sample_index": 0, "rollout_n": 0, "validate": False}
        prompt = row | {"uid": "u", "global_steps": 3, "__rollout_n__": 1}
        asyncio.run(worker._run_prompt(prompt, sampling, info))
    ((fields, tags),) = put
    return fields, tags


def without_padding(output):
    """The only row of verl's batch, with the keys of ``TrainingRow``."""
    batch = {name: tensor[0] for name, tensor in output.batch.items()}
    known = batch["attention_mask"].bool()
    prompt, response = known[:PROMPT_LENGTH], known[PROMPT_LENGTH:]
    return {
        "prompt_ids": batch["prompts"][prompt].tolist(),
        "response_ids": batch["responses"][response].tolist(),
        "mask": batch["response_mask"][response].tolist(),
        "logprobs": batch["rollout_log_probs"][response].tolist(),
        "reward": batch["rm_scores"][response].sum().item(),
        "rewarded": batch["rm_scores"].nonzero().flatten().tolist(),
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_verls_batch_holds_what_the_trainers_rollout_gives(play, name):
    row = without_padding(play(ScriptedServer(name)))
    wanted = expected()[name]
    last = len(wanted["response_ids"]) - 1
    assert row["rewarded"] == ([last] if wanted["reward"] else [])
    assert row | {"rewarded": None} == {
        **{key: wanted[key] for key in ("prompt_ids", "response_ids", "mask", "reward")},
        "logprobs": pytest.approx(wanted["logprobs"]),
        "rewarded": None,
    }


@pytest.mark.parametrize("name", ["shallow", "deep", "exhausted", "cut off in a lookahead"])
def test_verls_new_trainer_gets_the_same(play, name):
    fields, tags = play(ScriptedServer(name), how=new_trainer)
    wanted = expected()[name]
    for key, field in [
        ("prompt_ids", "prompts"),
        ("response_ids", "responses"),
        ("mask", "response_mask"),
        ("mask", "loss_mask"),
    ]:
        assert fields[field].tolist() == wanted[key]
    assert fields["rollout_log_probs"].tolist() == pytest.approx(wanted["logprobs"])
    scores = [0.0] * (len(wanted["mask"]) - 1) + [wanted["reward"]]
    assert fields["rm_scores"].tolist() == scores
    assert (tags["min_global_steps"], tags["max_global_steps"]) == (11, 10 + len(SCRIPTS[name]))


def test_grafted_tokens_can_be_left_out(play):
    row, wanted = without_padding(play(ScriptedServer("deep"), grafted="mask")), expected()["deep"]
    both = zip(wanted["mask"], wanted["grafted"], strict=True)
    assert row["mask"] == [own and not moved for own, moved in both] != wanted["mask"]


def test_settings_reach_saar_and_the_reward(play):
    given = {"saar": {"mode": "off"}, "reward": {"right": 2.0, "tool": {"failure": 0.5}}}
    output = play(ScriptedServer("later"), **given)  # five turns, the last one wrong
    assert output.non_tensor_batch["triggered"].tolist() == [0]
    assert without_padding(output)["reward"] == -1.0  # two failed calls


def test_a_reward_of_ones_own_is_named_as_elsewhere(play, monkeypatch, tmp_path):
    text = "from cleaner_env.rewards import Reward\nREWARD = Reward(wrong=-0.5)\n"
    (tmp_path / "own_reward.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    row = without_padding(play(ScriptedServer("later"), reward="own_reward:REWARD"))
    assert row["reward"] == -0.5


def test_the_server_is_asked_for_one_episode_with_its_limits(play):
    server = ScriptedServer("shallow")
    play(server, max_turn_tokens=100, overrides=[f"{ROLLOUT}.temperature=0.7"])
    ids, contexts, params = zip(*server.asked, strict=True)
    assert len(set(ids)) == 1  # the same server, which has the prefix in its cache
    prompt = expected()["shallow"]["prompt_ids"]
    assert contexts[0] == prompt
    failed = [*prompt, *turns(TOKENIZER, "shallow")[0][0]]
    assert contexts[1][: len(failed)] == failed
    assert contexts[2][: len(failed)] != failed
    assert [one["max_tokens"] for one in params] == [100, 100, 100]
    assert all(TOKENIZER.eos_token_id in one["stop_token_ids"] for one in params)
    assert {one["temperature"] for one in params} == {0.7}


def test_counts_and_versions_go_to_verls_batch(play):
    more = play(ScriptedServer("shallow")).non_tensor_batch
    shown = ("acc", "calls", "failures", "shallow", "min_global_steps", "max_global_steps")
    assert [more[name][0] for name in shown] == [1.0, 2, 1, 1, 11, 13]
    assert more["__num_turns__"].tolist() == [4]  # question, call, output, answer


def test_without_logprobs_of_the_server_the_batch_has_none(play):
    assert "rollout_log_probs" not in play(ScriptedServer("shallow", logprobs=False)).batch


def test_an_episode_that_the_sandbox_spoils_is_played_again(play):
    server = ScriptedServer("clean")
    server.script = [server.script[0], *server.script]
    row = without_padding(play(server, sandbox=BrokenSandbox(2)))
    assert row["response_ids"] == expected()["clean"]["response_ids"]


def test_a_broken_sandbox_ends_the_run(play):
    server = ScriptedServer("clean")
    server.script = [server.script[0]] * 2
    with pytest.raises(SandboxError, match="no worker answers"):
        play(server, sandbox=BrokenSandbox(99))


def test_a_server_that_leaves_out_the_end_of_turns_is_refused(play):
    with pytest.raises(ValueError, match="without a token that ends turns"):
        play(ScriptedServer("clean", drop_stop=True))


def test_a_prompt_that_is_too_long_is_refused_with_the_remedy(play):
    with pytest.raises(ValueError, match=r"raise data\.max_prompt_length, which is 300"):
        play(ScriptedServer("clean"), env={"system_prompt": "Think. " * PROMPT_LENGTH})


def test_a_mistyped_setting_is_refused(play):
    with pytest.raises(Exception, match="max_turns_tokens"):
        play(ScriptedServer("clean"), max_turns_tokens=5)


def test_any_row_in_verls_layout_is_played_in_a_real_sandbox(play, sandbox):
    row = {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": TASK.prompt}],
        "reward_model": {"style": "rule", "ground_truth": "42"},
        "extra_info": {"index": 3},
    }
    chosen = f"{ROLLOUT}.agent.default_agent_loop=cleaner_saar"
    output = play(ScriptedServer("deep"), row, [chosen], sandbox=sandbox)
    row, wanted = without_padding(output), expected()["deep"]
    assert (row["reward"], row["mask"].count(1)) == (1.0, wanted["mask"].count(1))


def test_the_command_of_the_docs_is_one_that_verl_knows():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"( {4}python -m verl\.trainer\.main_ppo .*?)\n\n", text, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))[3:]
    verls = config(*words)
    loops = OmegaConf.load(ROOT / verls.actor_rollout_ref.rollout.agent.agent_loop_config_path)
    assert [loop.name for loop in loops] == [adapter.AGENT_NAME, "cleaner_plain"]
    for loop in loops:
        settings = adapter.Settings(**loop.settings)
        adapter._reward(settings.reward)
        adapter.token_env(adapter._codec(TOKENIZER), 100, saar=settings.saar, **settings.env)
    assert loops[0].settings.reward.overlong.buffer < verls.data.max_response_length
