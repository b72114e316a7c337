"""Trainer: the parts of a training, opened for a new run or from a checkpoint."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks, fitting_tasks, load_tasks
from cleaner_env.tasks.sources import Split, TaskSource
from cleaner_rl.agreement import check_agreement
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.fsdp import copy_weights, shard, whole_copy
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError, PolicyError, UserError
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.inference.sampler import SPARE_CELLS
from cleaner_rl.learner.update import See, Updater
from cleaner_rl.models.lora import add_lora
from cleaner_rl.models.memory import memory_errors
from cleaner_rl.models.policy import Policy, load_policy
from cleaner_rl.rollout.environment import open_sandbox, reward_of
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.runs.checkpoint import load_state, load_tensors
from cleaner_rl.runs.lock import reserved
from cleaner_rl.runs.loggers import Log, check_logger, log_nothing, open_logger
from cleaner_rl.runs.provenance import weights_fingerprint
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.settings import EpisodeConfig, flat


@dataclass(slots=True)
class Trainer:
    """The parts of a training.

    Attributes:
        policy: samples the episodes. In a single process this is the trained model itself, on
            several ranks a whole copy of it, see ``learn``.
        updater: updates the trained model.
        source: where the problems come from.
        base: fingerprint of the weights that a KL term or LoRA adapters refer to, or empty.
        step: the last finished step; the policy is the one after this step.
        saved_step: the step of the newest checkpoint.
        log: logs what is known of a step, on the first rank.
    """

    config: TrainConfig
    policy: Policy
    updater: Updater
    source: TaskSource
    rollout: Rollout
    run: RunDirectory
    ranks: Ranks
    base: str
    step: int
    saved_step: int = -1
    log: Log = log_nothing

    @classmethod
    @contextmanager
    def open(cls, config: TrainConfig, ranks: Ranks | None = None) -> Iterator[Trainer]:
        """Start a run, or continue ``config.resume``. Every rank has to call this.

        Nothing is written until everything needed has been loaded and checked. Inside the block no
        other process can write the run.
        """
        ranks = ranks or Ranks(config.device)
        run = RunDirectory(Path(config.resume or ranks.on_first(lambda: _free_path(config))))
        with ExitStack() as held:

            def reserve() -> None:
                held.enter_context(reserved(run.path))

            def open_log() -> None:
                logger, known = config.monitor.logger, flat(config)
                trainer.log = held.enter_context(open_logger(logger, run.path, known, step))

            if config.resume:
                ranks.on_first(reserve)
            saved = ranks.together(lambda: _saved(config)) if config.resume else None
            tasks, seed, episode = config.tasks, config.seed, config.episode
            source = ranks.together(lambda: load_source(tasks, "train", seed, episode))
            ranks.together(lambda: held_out_tasks(config))
            # Logger and sandbox are checked before a large model is loaded.
            ranks.together(lambda: check_logger(config.monitor.logger))
            sandbox = ranks.together(lambda: held.enter_context(open_sandbox(episode)))
            policy, updater, base = _models(config, saved, ranks)
            _require_agreement(policy, ranks)
            rollout = held.enter_context(Rollout.open(policy, episode, config.dtype, sandbox))
            source, left_out = ranks.together(lambda: _fitting(source, rollout, config))
            if left_out and ranks.first:
                print(f"{left_out} prompts exceed --max-prompt-tokens: left out", file=sys.stderr)
            step = saved.state["step"] if saved else 0
            trainer = cls(config, policy, updater, source, rollout, run, ranks, base, step)
            if saved:
                trainer.saved_step = step
                ranks.on_first(open_log)
                ranks.on_first(lambda: run.rewind(config, step))
            else:
                with trainer._created():
                    ranks.on_first(reserve)
                    ranks.on_first(open_log)
            yield trainer

    @contextmanager
    def _created(self) -> Iterator[None]:
        """Write the run's first files, and remove them again if that or the block fails."""
        self.ranks.on_first(lambda: RunDirectory.create(self.run.path, self.config))
        try:
            self.save()
            yield
        except BaseException:
            if self.ranks.first:
                shutil.rmtree(self.run.path, ignore_errors=True)
            raise

    def learn(self, minibatches: Sequence[Sequence[Sample]], see: See) -> dict[str, float]:
        """Update the model on this rank's samples, and with it the policy that plays episodes."""
        with memory_errors("learning", self.policy.device):
            learned = self.updater.update(minibatches, see)
            if self.policy.model is not self.updater.model:
                copy_weights(self.policy.model, self.updater.model)
        return learned

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if self.saved_step == self.step:
            return
        keep = self.config.monitor.keep_checkpoints
        self.run.save(self.step, self.policy, self.updater, self.base, keep)
        self.saved_step = self.step


@dataclass(frozen=True, slots=True)
class _Saved:
    """The checkpoint that a run continues from."""

    directory: Path
    state: dict[str, Any]


def load_source(
    tasks: str, split: Split, seed: int, episode: EpisodeConfig | None = None
) -> TaskSource:
    """Load the problems of a split; the reward of ``episode`` must be able to score them."""
    try:
        return load_tasks(tasks, split, seed, None if episode is None else reward_of(episode))
    except ValueError as error:
        raise UserError(str(error)) from error


def held_out_tasks(config: TrainConfig) -> list[Task]:
    """The problems of a run's evaluations."""
    count = config.monitor.eval_tasks
    if count == 0:
        return []
    try:
        return first_tasks(load_source(config.tasks, "test", config.seed, config.episode), count)
    except (UserError, ValueError) as error:
        raise UserError(f"{error}; --eval-tasks 0 does without them") from error


def check_policy(policy: Policy, config: TrainConfig) -> None:
    """Check that context and cache hold a whole episode, and that model, sampler and packed rows
    agree on its numbers."""
    cells = config.episode.cache_tokens
    wanted = config.max_prompt_tokens + config.episode.max_response_tokens
    if wanted > policy.context_length:
        raise PolicyError(
            f"{policy.name} attends to {policy.context_length} tokens, but prompt and response may "
            f"have {wanted}; lower --max-response-tokens or --max-prompt-tokens (with longrope, "
            "the original length counts: docs/training-reference.md#architectures)"
        )
    if 0 < cells < wanted + SPARE_CELLS:
        raise PolicyError(
            f"--cache-tokens {cells} cannot hold a whole episode: prompt and response may "
            f"have {wanted}; give {wanted + SPARE_CELLS} or more, or 0 for a quarter of the memory"
        )
    check_agreement(policy, wanted, shared=config.update.share_prefixes)


def _require_agreement(policy: Policy, ranks: Ranks) -> None:
    """Check that all ranks, each of which loads the weights itself, have the same ones."""
    names = [] if ranks.size == 1 else ranks.gather(lambda: weights_fingerprint(policy.model))
    other = next((rank for rank, name in enumerate(names) if name != names[0]), None)
    if other is not None:
        raise PolicyError(
            f"the weights of {policy.name!r} on rank {other} differ from those on rank 0; give "
            "all machines the same --model"
        )


def _free_path(config: TrainConfig) -> str:
    path = config.run_dir or f"runs/{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    RunDirectory.require_free(Path(path))
    return path


def _saved(config: TrainConfig) -> _Saved:
    latest = RunDirectory.open(Path(config.resume)).list_checkpoints()[-1]
    saved = _Saved(latest, load_state(latest))
    if config.steps < (step := saved.state["step"]):
        raise UserError(f"the run has already done {step} steps; give --steps {step} or more")
    return saved


def _models(config: TrainConfig, saved: _Saved | None, ranks: Ranks) -> tuple[Policy, Updater, str]:
    """The policy that samples, the updater, and the fingerprint of the KL term's or LoRA's base.

    A run with LoRA continues from its original weights and the checkpoint's adapters; any other run
    from the checkpoint's weights.
    """
    name = str(saved.directory) if saved and not config.lora_rank else config.model
    policy, reference, base = ranks.together(lambda: _load(name, config, ranks))
    if saved and saved.state["base"] != base:
        raise CheckpointError(
            f"the model {config.model!r}, which the run started from and still refers to "
            f"({'its adapters' if config.lora_rank else '--kl-coefficient'}), has changed since; "
            f"restore the old one, or start a new run from the last checkpoint"
        )
    if config.lora_rank:
        add_lora(policy.model, config.lora_rank, config.lora_alpha)
    model = policy.model
    if ranks.mesh is not None:
        policy.model = whole_copy(model, config.dtype)
        shard(model, ranks.mesh, config.dtype)
        if reference is not None:
            shard(reference, ranks.mesh, config.dtype)
    updater = Updater(
        model,
        config.update,
        reference,
        ranks,
        temperature=config.episode.temperature,
        budget=config.episode.max_response_tokens,
        dtype=config.dtype,
    )
    if saved:
        updater.load_state(saved.state["updater"])
        load_tensors(saved.directory, updater.tensors(), ranks)
        if policy.model is not model:
            copy_weights(policy.model, model)
    return policy, updater, base


def _load(name: str, config: TrainConfig, ranks: Ranks) -> tuple[Policy, Any, str]:
    """The policy, the KL term's reference if that is a separate model, and the fingerprint."""
    policy = load_policy(name, ranks.device, config.episode.tool_role)
    reference, base = None, ""
    check_policy(policy, config)
    if config.lora_rank:
        base = weights_fingerprint(policy.model)
    elif config.update.kl_coefficient > 0:
        reference = load_policy(config.model, ranks.device).model.requires_grad_(False)
        base = weights_fingerprint(reference)
    return policy, reference, base


def _fitting(source: TaskSource, rollout: Rollout, config: TrainConfig) -> tuple[TaskSource, int]:
    """The source without problems whose prompts are too long, and the number of those."""
    try:
        return fitting_tasks(source, rollout.prompt_length, config.max_prompt_tokens)
    except ValueError as error:
        raise UserError(f"--tasks {config.tasks}: {error}; raise --max-prompt-tokens") from error
