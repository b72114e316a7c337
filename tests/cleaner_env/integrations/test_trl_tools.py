"""TRL's own GRPOTrainer plays the plain environment as a tool, and is told what it earned."""

import copy
import math

import pytest
from scripted_rollouts import MAX_LENGTH, TASK, ScriptedSandbox, turns
from trl import GRPOConfig, GRPOTrainer

from cleaner_env import Limits, SandboxError
from cleaner_env.integrations.trl import environment_factory
from cleaner_rl.models.policy import load_policy, load_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory':UserWarning"),
]
NO_SCHEMAS = "{%- set tools = none -%}"
"""The bundled policy knows its tool, and was never shown a schema."""


class Scripted(GRPOTrainer):
    """Samples the turns of ``left``, a script for each episode."""

    def _generate_single_turn(self, contexts, images, fields, num_generations, **_):
        playing = [i for i, script in enumerate(self.left) if script][: len(contexts)]
        return [self.left[i].pop(0)[0] for i in playing], None


@pytest.fixture
def make_trainer(tmp_path):
    """A GRPOTrainer with the bundled policy; the options are those of the environment."""

    def make(kind=Scripted, tasks=(TASK,), **options):
        policy = load_policy("bundled", "cpu")
        policy.tokenizer.chat_template = NO_SCHEMAS + policy.tokenizer.chat_template
        options = {"sandbox": ScriptedSandbox(), **options}
        tasks = tasks if isinstance(tasks, str) else list(tasks)
        environments = environment_factory(tasks, policy.tokenizer, **options)
        config = GRPOConfig(
            output_dir=str(tmp_path / "trl"),
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            max_steps=2,
            num_generations=4,
            per_device_train_batch_size=8,
            disable_tqdm=True,
            max_completion_length=MAX_LENGTH,
            max_tool_calling_iterations=4,
        )
        data = environments.dataset(2)
        return kind(
            policy.model,
            environments.reward,
            config,
            data,
            processing_class=policy.tokenizer,
            environment_factory=environments,
        )

    return make


def score(trainer, *names):
    """TRL's whole way from prompts to rewards, for scripts; returns the rewards."""
    trainer.left = [turns(trainer._tokenizer, name) for name in names]
    trainer.model.train()
    seen = []
    calculate = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *given: seen.append(calculate(*given)) or seen[-1]
    trainer._generate_and_score_completions([{**trainer.train_dataset[0]} for _ in names])
    return seen[0][:, 0].tolist()


def histories(trainer):
    return [[turn.ok for turn in place.env.episode.turns] for place in trainer.environments]


def test_the_final_answer_reaches_the_environment_whatever_came_before(make_trainer):
    trainer = make_trainer()
    names = ("no call", "clean", "shallow", "later")
    assert score(trainer, *names) == [1.0, 1.0, 1.0, 0.0]
    # TRL owns the history, so the failed call stays.
    assert histories(trainer)[:3] == [[None], [True, None], [False, True, None]]
    assert trainer._metrics["train"]["tools/failed_programs"] == [pytest.approx(3 / 4)]


def test_an_answer_that_a_limit_cut_off_earns_nothing(make_trainer):
    assert score(make_trainer(), "cut off", "clean", "clean", "clean") == [0.0, 1.0, 1.0, 1.0]


def test_an_episode_that_ends_with_a_call_earns_nothing(make_trainer):
    trainer = make_trainer()
    trainer.max_tool_calling_iterations = 1
    assert score(trainer, "shallow", "clean", "clean", "clean") == [0.0, 1.0, 1.0, 1.0]
    assert trainer.environments[0].env.episode.truncated


def test_an_episode_whose_only_call_never_reached_the_tool_earns_nothing(make_trainer):
    trainer = make_trainer()
    trainer.max_tool_calling_iterations = 0
    assert score(trainer, "clean", "clean", "clean", "no call") == [0.0, 0.0, 0.0, 1.0]


def test_a_program_that_the_models_own_format_cannot_write_runs(tokenizer):
    tokenizer = copy.copy(tokenizer)
    tokenizer.response_template = {"defaults": {"role": "assistant"}}
    tokenizer.chat_template += "{# <function= <parameter= #}"  # as in Qwen3-Coder's
    place = environment_factory([TASK], tokenizer, limits=Limits(wall_s=2))()
    with pytest.raises(ValueError, match="no problem is known"):
        place.reset(prompt="What is 6*7?")
    place.env.reset(options={"task": TASK})
    assert place.code_interpreter('print("</parameter>")') == "</parameter>"
    place.env.close()


def test_a_broken_sandbox_is_not_the_models_error(make_trainer):
    class Broken(ScriptedSandbox):
        def run(self, code):
            raise SandboxError("no worker answers")

    trainer = make_trainer(sandbox=Broken())
    rewards = score(trainer, "clean", "no call", "no call", "no call")
    assert math.isnan(rewards[0]) and rewards[1:] == [1.0] * 3
    with pytest.raises(SandboxError, match="spoilt 2 of 4 episodes"):
        score(trainer, "clean", "clean", "no call", "no call")


@pytest.mark.slow
def test_two_steps_train_on_the_rewards_of_the_environment(make_trainer, sandbox):
    trainer = make_trainer(GRPOTrainer, "reasoning-gym:basic_arithmetic", sandbox=sandbox)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in logged] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in logged)
    earned = [place.env.episode.reward for place in trainer.environments]
    assert logged[1]["reward"] == pytest.approx(sum(earned) / 8)
    assert logged[1]["tools/call_frequency"] > 0


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("max_turns", 8, "max_tool_calling_iterations"),
        ("max_length", 100, "max_completion_length"),
        ("saar", {}, "rollout_func"),
    ],
)
def test_options_that_are_trls_own_are_refused(tokenizer, option, value, remedy):
    with pytest.raises(ValueError, match=remedy):
        environment_factory([TASK], tokenizer, **{option: value})


def test_a_template_whose_calls_trl_cannot_read_is_refused_with_the_remedy():
    tokenizer = copy.copy(load_tokenizer("bundled"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    with pytest.raises(ValueError, match=r"tokenizer.response_template .* or use rollout_func"):
        environment_factory([TASK], tokenizer)


def test_a_response_template_of_ones_own_is_kept():
    tokenizer = load_tokenizer("bundled")
    tokenizer.response_template = mine = {"defaults": {"role": "assistant"}}
    environment_factory([TASK], tokenizer)
    assert tokenizer.response_template is mine
