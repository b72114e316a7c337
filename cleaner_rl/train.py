"""Training: ``python -m cleaner_rl.train``. The algorithm reads from top to bottom in ``train``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from cleaner_env.episode import Episode
from cleaner_env.rewards import overlong_penalty
from cleaner_env.task_files import first_tasks, load_tasks
from cleaner_env.tasks import Task, TaskSource
from cleaner_rl.advantage import group_advantages
from cleaner_rl.config import TrainConfig, preset
from cleaner_rl.credit import episode_samples
from cleaner_rl.errors import CheckpointError, UserError, run_command
from cleaner_rl.evaluation import Evaluation, evaluate, without_rollback
from cleaner_rl.interrupt import Interrupt
from cleaner_rl.metrics import episode_metrics
from cleaner_rl.policy import Policy, load_policy
from cleaner_rl.progress import TrainingProgress
from cleaner_rl.report import write_report
from cleaner_rl.rollout import Rollout
from cleaner_rl.run_directory import RunDirectory
from cleaner_rl.sampler import Sampler
from cleaner_rl.samples import Sample
from cleaner_rl.update import UpdateConfig, Updater

_MAY_CHANGE = ("steps", "device", "workers", "resume")
"""Settings that may differ when a run is resumed."""


@dataclass(slots=True)
class Session:
    """What a training works on.

    Attributes:
        policy: to be trained.
        updater: its optimiser.
        source: of the problems.
        step: the last step done.
        run: where everything is written.
    """

    policy: Policy
    updater: Updater
    source: TaskSource
    step: int
    run: RunDirectory


def train(config: TrainConfig, session: Session, progress: TrainingProgress) -> None:
    """Train on from the session's step to ``config.steps``.

    Every step draws its tasks and its random numbers from the seed and its own number, so a resumed
    run goes on as the uninterrupted one would have.

    Raises:
        KeyboardInterrupt: after a signal; the state of the last whole step is saved.
        UserError: the tasks or the sandbox cannot be used.
    """
    policy, updater, run = session.policy, session.updater, session.run
    with Interrupt() as interrupt, _rollout(policy, config) as rollout:
        whole = True  # the policy is that of the last logged step
        try:
            _evaluate_once(config, run, policy, progress, "before")
            for step in range(session.step + 1, config.steps + 1):
                began = time.monotonic()
                tasks, skipped = step_tasks(session.source, config, rollout, step)
                episodes = rollout.play(
                    [task for task in tasks for _ in range(config.group_size)],
                    seed=_step_seed(config.seed, step),
                    on_progress=lambda done, total: progress.phase("playing", done, total),
                )
                sampled = time.monotonic()
                rewards = [_reward(episode, rollout, config) for episode in episodes]
                minibatches = training_samples(episodes, rewards, rollout, config)
                progress.phase("learning")
                with interrupt.protected():
                    whole = False
                    learned = updater.update(minibatches)
                    ended = time.monotonic()
                    metrics = {
                        "step": step,
                        **_rollout_metrics(episodes, rewards, config),
                        **learned,
                        "prompts_skipped": skipped,
                        "tokens_per_second": _tokens(episodes) / (ended - began),
                        "sample_seconds": sampled - began,
                        "step_seconds": ended - began,
                    }
                    run.log_metrics(metrics)
                    whole = True
                    run.log_episodes(step, episodes[: config.log_episodes])
                    if step % config.save_every == 0 or step == config.steps:
                        run.save(step, policy, _state(updater), config.keep_checkpoints)
                progress.step(step, metrics)
            _evaluate_once(config, run, policy, progress, "after")
        except BaseException:
            if whole:
                _save_last(config, run, policy, updater)
            raise
    write_report(run.path, config)


def step_tasks(
    source: TaskSource, config: TrainConfig, rollout: Rollout, step: int
) -> tuple[list[Task], int]:
    """The problems of a step, and how many were skipped because their prompts are too long.

    Raises:
        UserError: all of them are.
    """
    begin = (step - 1) * config.prompts
    tasks = [source[index] for index in range(begin, begin + config.prompts)]
    fitting = [task for task in tasks if rollout.prompt_length(task) <= config.max_prompt_tokens]
    if not fitting:
        raise UserError(
            f"every prompt of step {step} is longer than {config.max_prompt_tokens} tokens; "
            "raise --max-prompt-tokens"
        )
    return fitting, len(tasks) - len(fitting)


def training_samples(
    episodes: Sequence[Episode], rewards: Sequence[float], rollout: Rollout, config: TrainConfig
) -> list[list[Sample]]:
    """The samples of each minibatch, each episode with its advantage in its group."""
    size = config.group_size
    groups = []
    for begin in range(0, len(episodes), size):
        group = episodes[begin : begin + size]
        advantages = group_advantages(rewards[begin : begin + size])
        groups.append(
            [
                sample
                for episode, advantage in zip(group, advantages, strict=True)
                for sample in episode_samples(
                    episode,
                    advantage,
                    rollout.prompt_ids(episode),
                    rollout.observation_ids,
                    config.credit,
                    config.grafted,
                )
            ]
        )
    return [
        [sample for group in groups[begin : begin + config.minibatch_prompts] for sample in group]
        for begin in range(0, len(groups), config.minibatch_prompts)
    ]


def _reward(episode: Episode, rollout: Rollout, config: TrainConfig) -> float:
    length = rollout.response_length(episode)
    return episode.reward - overlong_penalty(
        length, config.max_response_tokens, config.overlong_buffer, config.overlong_factor
    )


def _rollout_metrics(
    episodes: Sequence[Episode], rewards: Sequence[float], config: TrainConfig
) -> dict[str, float]:
    size = config.group_size
    groups = [rewards[i : i + size] for i in range(0, len(rewards), size)]
    return {
        "reward": sum(rewards) / len(rewards),
        "groups_with_signal": sum(max(g) > min(g) for g in groups) / len(groups),
        **episode_metrics(episodes),
    }


def _tokens(episodes: Sequence[Episode]) -> int:
    return sum(episode.stats.tokens_sampled for episode in episodes)


def _step_seed(seed: int, step: int) -> int:
    """Seeds of different steps, and of their episodes, do not overlap."""
    return seed * 1_000_003_000 + step * 100_003


def _load_source(config: TrainConfig, split: Any) -> TaskSource:
    try:
        return load_tasks(config.tasks, split, config.seed)
    except ValueError as error:
        raise UserError(str(error)) from error


def _open_session(config: TrainConfig) -> Session:
    """Start a run or continue one. Nothing is written before everything needed is loaded."""
    settings = asdict(config)
    update = UpdateConfig(**{name: settings[name] for name in UpdateConfig.__slots__})
    source = _load_source(config, "train")
    if config.resume:
        run = RunDirectory.open(Path(config.resume))
        checkpoint, state = run.load_latest()
        policy = load_policy(str(checkpoint), config.device)
        updater = Updater(policy.model, update)
        updater.load_state(state["updater"])
        run.forget_after(state["step"])
        return Session(policy, updater, source, state["step"], run)
    path = Path(config.run_dir or f"runs/{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    RunDirectory.require_free(path)
    policy = load_policy(config.model, config.device)
    run = RunDirectory.create(path, config)
    return Session(policy, Updater(policy.model, update), source, 0, run)


def _rollout(policy: Policy, config: TrainConfig) -> Rollout:
    sampler = Sampler(policy, config.temperature, max_batch=config.sample_batch)
    return Rollout(policy, sampler, config.rollout())


def _save_last(config: TrainConfig, run: RunDirectory, policy: Policy, updater: Updater) -> None:
    step = _steps_done(run)
    if not run.has_checkpoint or run.load_latest()[1]["step"] != step:
        run.save(step, policy, _state(updater), config.keep_checkpoints)


def _state(updater: Updater) -> dict[str, Any]:
    return {"updater": updater.state()}


def _evaluate_once(
    config: TrainConfig, run: RunDirectory, policy: Policy, progress: TrainingProgress, when: str
) -> None:
    """The held-out evaluation, rollback off, unless the run has it already."""
    name = f"evaluation-{when}.json"
    known = run.read_json(name)
    if config.eval_tasks < 1 or (known is not None and known["policy"] == _identity(config, when)):
        return
    source = _load_source(config, "test")
    result = evaluate(
        policy,
        [source[index] for index in range(config.eval_tasks)],
        without_rollback(config.rollout()),
        samples=config.eval_samples,
        temperature=config.temperature,
        max_batch=config.sample_batch,
        seed=config.seed,
        on_progress=lambda done, total: progress.phase(f"evaluating {when}", done, total),
    )
    run.write_json(name, {"policy": _identity(config, when), **result.summary()})
    progress.say(describe_evaluation(when, result))


def _identity(config: TrainConfig, when: str) -> str:
    """Which policy an evaluation is of."""
    return config.model if when == "before" else f"step {config.steps}"


def describe_evaluation(when: str, result: Evaluation) -> str:
    """An evaluation in a line."""
    m, e = result.metrics, result.errors
    return (
        f"held-out {when}, rollback off: accuracy {m['accuracy']:.1%} ± {e['accuracy']:.1%}, "
        f"failed calls per episode {m['failed_calls']:.2f} ± {e['failed_calls']:.2f}, "
        f"first call fails in {m['first_call_failed']:.0%}"
    )


def parse_args(arguments: Sequence[str]) -> TrainConfig:
    """The configuration behind command-line arguments: preset or resumed run, then overrides.

    Raises:
        UserError: unknown preset, bad value, or a setting that a resumed run cannot change.
    """
    resumed = _option(arguments, "--resume")
    if resumed is not None:
        stored = TrainConfig.load(Path(resumed) / "config.json")
        config = _parse(arguments, stored)
        changed = [
            name
            for name, value in asdict(config).items()
            if value != getattr(stored, name) and name not in _MAY_CHANGE
        ]
        if changed:
            raise UserError(
                f"a resumed run keeps its settings; leave out: "
                f"{', '.join('--' + name.replace('_', '-') for name in changed)}"
            )
        return replace(config, run_dir=resumed)
    name = _option(arguments, "--preset")
    return _parse(arguments, preset("tiny" if name is None else name))


def _parse(arguments: Sequence[str], default: TrainConfig) -> TrainConfig:
    return tyro.cli(TrainConfig, args=arguments, default=default, prog="python -m cleaner_rl.train")


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option that has to be known before the others are parsed."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(name + "="):
            return argument.removeprefix(name + "=")
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the training reached its end, 130 when it was interrupted."""
    config = parse_args(sys.argv[1:] if arguments is None else arguments)
    torch.manual_seed(config.seed)
    session = _open_session(config)
    run = session.run
    resume = f"python -m cleaner_rl.train --resume {run.path}"
    with TrainingProgress(session.step, config.steps) as progress:
        progress.say(f"run directory: {run.path}")
        try:
            train(config, session, progress)
        except KeyboardInterrupt:
            progress.say(f"stopped; everything up to the last step is saved. Resume: {resume}")
            return 130
        except UserError as error:
            if isinstance(error, CheckpointError) or not run.has_checkpoint:
                raise
            raise type(error)(f"{error}\nThe run is saved. Resume: {resume}") from error
        progress.say(f"report: {run.path / 'report.md'}")
    return 0


def _steps_done(run: RunDirectory) -> int:
    logged = run.read_metrics()
    return int(logged[-1]["step"]) if logged else 0


if __name__ == "__main__":
    run_command(main)
