"""TRL's own GRPOTrainer plays episodes with SAAR, and trains what the trainer here would train."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scripted_rollouts import (
    MAX_LENGTH,
    SCRIPTS,
    TASK,
    BrokenSandbox,
    ScriptedSandbox,
    expected,
    turns,
)
from trl import GRPOConfig, GRPOTrainer

from cleaner_env import Limits, SandboxError, Task
from cleaner_env.integrations.trl import rollout_func
from cleaner_env.rewards import Reward, ToolTerm
from cleaner_env.token_samples import purified_sample
from cleaner_rl.models.policy import load_policy
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.settings import EpisodeConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
]


@pytest.fixture
def make_trainer(tmp_path):
    """A GRPOTrainer for a rollout, with the bundled policy."""

    def make(rollout, *, kind=GRPOTrainer, **settings):
        policy = load_policy("bundled", "cpu")
        config = {
            **{"output_dir": str(tmp_path / "trl"), "use_cpu": True, "bf16": False},
            **{"report_to": "none", "save_strategy": "no", "logging_steps": 1, "max_steps": 2},
            **{"num_generations": 4, "per_device_train_batch_size": 8, "disable_tqdm": True},
            **{"max_completion_length": MAX_LENGTH, "learning_rate": 1e-4},
        }
        return kind(
            policy.model,
            rollout.reward,
            GRPOConfig(**config | settings),
            rollout.dataset(2),
            processing_class=policy.tokenizer,
            rollout_func=rollout,
        )

    return make


class Scripted(GRPOTrainer):
    """Samples the turns of the scripts, one script for each episode."""

    def _generate_single_turn(self, contexts, images, fields, num_generations):
        playing = [i for i in self.left if self.left[i]]
        assert len(playing) == len(contexts)
        sampled = [self.left[i].pop(0) for i in playing]
        return [ids for ids, _ in sampled], [logprobs for _, logprobs in sampled]


def scripted_output(make_trainer, grafted="recompute", vllm=True):
    """What a rollout gives TRL for all scripts."""
    rollout = rollout_func([TASK], grafted=grafted, sandbox=ScriptedSandbox(), system_prompt=None)
    trainer = make_trainer(rollout, kind=Scripted)
    trainer.model.train()  # evaluations have no rollback
    trainer.use_vllm = vllm  # whose log-probabilities TRL reads
    trainer.vllm_mode = "server"
    trainer.left = {i: turns(trainer._tokenizer, name) for i, name in enumerate(SCRIPTS)}
    prompts = [rollout.dataset(1)[0]["prompt"]] * len(SCRIPTS)
    return dict(zip(SCRIPTS, zip_rows(rollout(prompts, trainer)), strict=True))


def zip_rows(output):
    columns = {key: value for key, value in output.items() if value is not None}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_scripted_turns_give_the_rows_of_the_trainers_own_rollout(make_trainer):
    for name, row in scripted_output(make_trainer).items():
        ours = expected()[name]
        assert row["prompt_ids"] == ours["prompt_ids"], name
        assert row["completion_ids"] == ours["response_ids"], name
        assert row["env_mask"] == ours["mask"], name
        assert row["episode_reward"] == ours["reward"], name
        pairs = zip(ours["logprobs"], ours["grafted"], strict=True)
        known = [None if grafted else pytest.approx(value) for value, grafted in pairs]
        assert row["logprobs"] == known, name


def test_grafted_tokens_can_be_left_out(make_trainer):
    for name, row in scripted_output(make_trainer, grafted="mask", vllm=False).items():
        pairs = zip(expected()[name]["mask"], expected()[name]["grafted"], strict=True)
        assert row["env_mask"] == [int(own and not moved) for own, moved in pairs]
        assert "logprobs" not in row


def test_grafted_tokens_get_no_correction_for_the_context_in_which_vllm_sampled_them(make_trainer):
    rollout = rollout_func([TASK], sandbox=ScriptedSandbox(), system_prompt=None)
    trainer = make_trainer(rollout, kind=Scripted)
    trainer.use_vllm, trainer.vllm_mode, trainer._last_loaded_step = True, "server", 0
    trainer.vllm_importance_sampling_mode = "token_truncate"
    trainer.model.train()
    names = ("shallow", "deep", "clean", "exhausted")
    trainer.left = {i: turns(trainer._tokenizer, name) for i, name in enumerate(names)}
    inputs = [{**trainer.train_dataset[0]} for _ in names]
    output = trainer._generate_and_score_completions(inputs)
    for name, ratios in zip(names, output["importance_sampling_ratio"].tolist(), strict=True):
        ours = expected()[name]
        shown = zip(ratios, ours["mask"], ours["grafted"], strict=False)
        corrected = [ratio != 1 for ratio, own, moved in shown if own and not moved]
        grafted = [ratio for ratio, moved in zip(ratios, ours["grafted"], strict=False) if moved]
        assert grafted == [1.0] * sum(ours["grafted"])
        assert all(corrected) and len(corrected) == sum(ours["mask"]) - len(grafted)
    assert torch.isfinite(output["importance_sampling_ratio"]).all()


def test_two_steps_train_on_the_rewards_and_tokens_of_the_environment(make_trainer):
    """With TRL's default gradient checkpointing, under which a plain model.generate would fail."""
    reward = Reward(terms=(ToolTerm(failure=0.1),))  # so that members of a group differ
    rollout = rollout_func("reasoning-gym:basic_arithmetic", reward=reward, system_prompt=None)
    steps = []

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            steps.append(([one.row() for one in rollout.episodes], output))
            return output

    trainer = make_trainer(rollout, kind=Watched, temperature=1.2)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    assert trainer.args.gradient_checkpointing
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in logged] == [1, 2]
    for log, (rows, output) in zip(logged, steps, strict=True):
        assert len({tuple(row.prompt_ids) for row in rows}) == 2  # groups of four
        assert math.isfinite(log["loss"]) and math.isfinite(log["grad_norm"])
        assert log["reward"] == pytest.approx(sum(row.reward for row in rows) / 8)
        ours = [sum(row.mask) for row in rows]
        assert log["completions/mean_length"] == pytest.approx(sum(ours) / 8)
        assert (output["completion_mask"] * output["tool_mask"]).sum(1).tolist() == ours
        for row, ids in zip(rows, output["completion_ids"].tolist(), strict=True):
            assert ids[: len(row.response_ids)] == row.response_ids
        assert not any("eval" in key for key in log)
    assert any(log["reward_std"] > 0 for log in logged)
    after = trainer.model.parameters()
    assert any(not torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_a_greedy_episode_is_the_one_that_the_trainers_rollout_plays(make_trainer, sandbox):
    problems = [
        {"prompt": f"What is {a} * {b} - {c}?", "answer": str(a * b - c)}
        for a, b, c in ((17, 23, 5), (99, 101, 7), (12, 12, 144))
    ]
    rollout = rollout_func(problems, system_prompt=None, sandbox=sandbox, max_turns=4)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    trainer = make_trainer(rollout, generation_kwargs=greedy)
    trainer.model.train()
    prompts = [row["prompt"] for row in rollout.dataset(3)]
    theirs = rollout(prompts, trainer)

    policy = load_policy("bundled", "cpu")
    config = EpisodeConfig(max_response_tokens=MAX_LENGTH, max_turns=4)
    ours = Rollout.open(policy, config, "float32", sandbox, top_k=1)
    for index, episode in enumerate(ours.play([Task(**problem) for problem in problems], seed=0)):
        prompt = ours.prompt_ids(episode)
        sample = purified_sample(episode, prompt, ours.observation_ids)
        assert theirs["prompt_ids"][index] == prompt
        assert tuple(theirs["completion_ids"][index]) == sample.ids[len(prompt) :]
        assert tuple(theirs["env_mask"][index]) == sample.mask[len(prompt) :]
        assert theirs["episode_reward"][index] == episode.reward
    assert any(episode.episode.stats.calls for episode in rollout.episodes)


@pytest.mark.slow
def test_the_glue_of_the_documentation_trains_in_at_most_five_lines(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "integrations.md").read_text(encoding="utf-8")
    glue = re.search(
        r"```python\n(from cleaner_env.integrations.trl import roll.*?)```", page, re.S
    )
    assert len([line for line in glue[1].splitlines() if line]) <= 5
    monkeypatch.chdir(tmp_path)
    row = {"question": "What is 17 * 23?", "answer": "17 * 23 = 391\n#### 391"}
    Path("train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    names = {
        "GRPOTrainer": GRPOTrainer,
        "model": load_policy("bundled", "cpu").model,
        "config": GRPOConfig(
            output_dir="trl",
            use_cpu=True,
            bf16=False,
            max_steps=1,
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=MAX_LENGTH,
            save_strategy="no",
            report_to="none",
        ),
    }
    exec(glue[1], names)
    assert names["trainer"].state.global_step == 1
    assert len(names["rollout"].episodes) == 4


TWO_PROCESSES = """
import os, sys, warnings
warnings.simplefilter("ignore")
from trl import GRPOConfig, GRPOTrainer
from cleaner_env.integrations.trl import rollout_func
from cleaner_rl.models.policy import load_policy

policy = load_policy("bundled", "cpu")
rollout = rollout_func("reasoning-gym:basic_arithmetic", system_prompt=None, max_turns=4)
config = GRPOConfig(
    output_dir=sys.argv[1], use_cpu=True, bf16=False, max_steps=2, num_generations=4,
    per_device_train_batch_size=4, max_completion_length=256, save_strategy="no", report_to="none",
    disable_tqdm=True, temperature=1.2, learning_rate=1e-3,
)
trainer = GRPOTrainer(
    policy.model, rollout.reward, config, rollout.dataset(16),
    processing_class=policy.tokenizer, rollout_func=rollout,
)
trainer.train()
after = sum(float(p.double().sum()) for p in policy.model.parameters())
text = f"{trainer.state.global_step} {len(rollout.episodes)} {after!r}"
open(os.path.join(sys.argv[1], "rank" + os.environ["RANK"]), "w").write(text)
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = ((tmp_path / f"rank{rank}").read_text(encoding="utf-8") for rank in (0, 1))
    assert first == second and first.startswith("2 4 ")


def test_evaluations_have_no_rollback(make_trainer):
    rollout = rollout_func([TASK], sandbox=ScriptedSandbox(), system_prompt=None)
    trainer = make_trainer(rollout, kind=Scripted)
    trainer.model.eval()
    trainer.left = {0: turns(trainer._tokenizer, "shallow")}
    rollout([rollout.dataset(1)[0]["prompt"]], trainer)
    episode = rollout.episodes[0].episode
    assert (len(episode.turns), episode.rollbacks, episode.rollback) == (3, [], False)


def test_an_episode_that_the_sandbox_spoils_teaches_nothing(make_trainer):
    rollout = rollout_func([TASK], sandbox=BrokenSandbox(), system_prompt=None)
    trainer = make_trainer(rollout, kind=Scripted)
    trainer.left = {i: turns(trainer._tokenizer, "no call") for i in range(4)}
    trainer.left[0] = turns(trainer._tokenizer, "clean")[:1]
    trainer.left[3] = [(ids[:-1], logprobs[:-1]) for ids, logprobs in trainer.left[3]]
    inputs = [{**trainer.train_dataset[0]} for _ in range(4)]
    output = trainer._generate_and_score_completions(inputs)
    assert [one.row().reward for one in rollout.episodes] == [None, 1.0, 1.0, 0.0]
    assert not any(output["tool_mask"][0][:1])
    # The group's mean is that of the other three: 2 / 3.
    advantages = output["advantages"].tolist()
    assert advantages[0] == 0 and advantages[1] > 0 > advantages[3]
    assert sum(advantages) == pytest.approx(0, abs=1e-5)


def test_many_episodes_that_the_sandbox_spoils_stop_the_training(make_trainer):
    rollout = rollout_func([TASK], sandbox=BrokenSandbox(), system_prompt=None)
    trainer = make_trainer(rollout, kind=Scripted)
    prompt = rollout.dataset(1)[0]["prompt"]
    trainer.left = {i: turns(trainer._tokenizer, "clean")[:1] for i in range(2)}
    with pytest.raises(SandboxError, match=r"spoilt 2 of 2 episodes \(no worker answers\)"):
        rollout([prompt] * 2, trainer)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tools", [print], "TRL does not read env_mask"),
        ("chat_template_kwargs", {"enable_thinking": False}, "top of tokenizer.chat_template"),
    ],
)
def test_settings_under_which_trl_would_train_something_else_are_refused(
    make_trainer, name, value, message
):
    rollout = rollout_func([TASK], system_prompt=None)
    trainer = make_trainer(rollout)
    setattr(trainer, name, value)
    with pytest.raises(ValueError, match=message):
        rollout([rollout.dataset(1)[0]["prompt"]], trainer)


def test_a_version_of_trl_that_samples_in_another_way_is_named(make_trainer, monkeypatch):
    rollout = rollout_func([TASK])
    trainer = make_trainer(rollout)
    monkeypatch.delattr(GRPOTrainer, "_generate_single_turn")
    with pytest.raises(ImportError, match=r"pip install 'trl==1\.16"):
        rollout([rollout.dataset(1)[0]["prompt"]], trainer)


def test_a_prompt_that_is_not_from_the_data_set_is_refused(make_trainer):
    rollout = rollout_func([TASK])
    with pytest.raises(ValueError, match=r"data sets that the dataset\(\) of this object made"):
        rollout([[{"role": "user", "content": "What is 2?"}]], make_trainer(rollout))


def test_limits_are_those_of_the_sandbox_that_all_environments_share(make_trainer):
    rollout = rollout_func([TASK], workers=3, limits=Limits(wall_s=0.5), system_prompt=None)
    trainer = make_trainer(rollout, kind=Scripted)
    trainer.left = {i: turns(trainer._tokenizer, "no call") for i in range(2)}
    rollout([rollout.dataset(1)[0]["prompt"]] * 2, trainer)
    one, two = (place.env.unwrapped._sandbox for place in rollout.episodes)
    assert one is two and (one.workers, one.limits.wall_s) == (3, 0.5)
    one.close()


def test_problems_with_one_text_and_two_answers_are_refused():
    rollout = rollout_func([TASK, {"prompt": TASK.prompt, "answer": "43"}])
    with pytest.raises(ValueError, match="answers '42' and '43'"):
        rollout.dataset(2)


def test_mistyped_options_are_refused_at_once():
    with pytest.raises(ValueError, match="grafted must be one of"):
        rollout_func([TASK], grafted="drop")
    with pytest.raises(TypeError, match="max_turn"):
        rollout_func([TASK], max_turn=3)
    with pytest.raises(TypeError, match="gama"):
        rollout_func([TASK], saar={"gama": 0.4})
    with pytest.raises(ValueError, match="max_completion_length"):
        rollout_func([TASK], max_length=300)
