"""Trainer: everything that a training works on, opened for a new run or from a checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cleaner_env.interpreter import Sandbox
from cleaner_env.tasks.load import load_tasks
from cleaner_env.tasks.sources import Split, TaskSource
from cleaner_rl.config import TrainConfig
from cleaner_rl.distributed.fsdp import copy_weights, shard, whole_copy
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import CheckpointError, PolicyError, UserError
from cleaner_rl.grpo.samples import Sample
from cleaner_rl.inference.sampler import SPARE_CELLS, Sampler
from cleaner_rl.learner.logprobs import packing_error
from cleaner_rl.learner.update import UpdateConfig, Updater
from cleaner_rl.models.lora import add_lora, require_same_base
from cleaner_rl.models.memory import exhaustion_said
from cleaner_rl.models.policy import Policy, load_policy, load_skeleton
from cleaner_rl.rollout.environment import open_sandbox
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.runs.loggers import check_logger
from cleaner_rl.runs.provenance import weights_fingerprint
from cleaner_rl.runs.run_directory import RunDirectory
from cleaner_rl.runs.sharded_checkpoint import is_sharded, load_shards

_MAX_PACKING_ERROR = 1e-2
"""Nats by which packed and plain log-probabilities may differ at the start."""


@dataclass(slots=True)
class Trainer:
    """What a training works on.

    Attributes:
        config: every setting.
        policy: samples the episodes; in a single process it is the model that is trained, on
            several ranks a whole copy of it, see ``learn``.
        updater: of the model that is trained.
        source: of the problems.
        rollout: plays the episodes.
        run: where everything is written.
        ranks: the processes that train together.
        base: fingerprint of the weights that a KL term or LoRA adapters refer to; empty without.
        step: the last step done; the policy is that of this step.
        saved_step: step of the newest checkpoint.
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
    saved_step: int

    @classmethod
    def open(cls, config: TrainConfig, ranks: Ranks | None = None) -> Trainer:
        """Start a run, or continue ``config.resume``. All ranks take part.

        Nothing is written before everything that is needed was loaded and checked.

        Raises:
            UserError: the tasks, the model, the sandbox, the run or its checkpoint cannot be used.
        """
        ranks = ranks or Ranks(config.device)
        return cls._continue(config, ranks) if config.resume else cls._begin(config, ranks)

    @classmethod
    def _begin(cls, config: TrainConfig, ranks: Ranks) -> Trainer:
        path = Path(ranks.on_first(lambda: _free_path(config)))
        source = ranks.together(lambda: load_source(config, "train"))
        with _sandbox(config, ranks) as sandbox:
            policy, updater, base = _trainer(
                config, ranks, lambda: _load(config.model, config, ranks)
            )
            _require_agreement(policy, ranks)
            ranks.on_first(lambda: RunDirectory.create(path, config))
            run = RunDirectory(path)
            rollout = _rollout(policy, config, sandbox)
            trainer = cls(config, policy, updater, source, rollout, run, ranks, base, 0, -1)
            try:
                trainer.save()
            except CheckpointError:
                if ranks.first:
                    shutil.rmtree(path, ignore_errors=True)
                raise
            return trainer

    @classmethod
    def _continue(cls, config: TrainConfig, ranks: Ranks) -> Trainer:
        run = ranks.together(lambda: RunDirectory.open(Path(config.resume)))
        source = ranks.together(lambda: load_source(config, "train"))
        checkpoint, state = ranks.together(lambda: run.load_latest(ranks))
        step = int(state["step"])
        if config.steps < step:
            raise UserError(f"the run has done {step} steps already; give --steps {step} or more")
        sharded = is_sharded(checkpoint)

        def start() -> Policy:
            # A checkpoint of a run with LoRA holds adapters; they go on from the base's weights.
            if config.lora_rank or not sharded:
                return _load(config.model if config.lora_rank else str(checkpoint), config, ranks)
            policy = load_skeleton(checkpoint, ranks.device)
            check_context(policy, config)
            return policy

        with _sandbox(config, ranks) as sandbox:
            policy, updater, base = _trainer(config, ranks, start, state.get("base"))
            if sharded:
                load_shards(checkpoint, updater.prepare_tensors(state["updater"]))
            else:
                updater.load_state(state["updater"])
                if config.lora_rank and ranks.size == 1:
                    require_same_base(policy.model, checkpoint)
            if policy.model is not updater.model:
                copy_weights(policy.model, updater.model)
            _require_agreement(policy, ranks)
            ranks.on_first(lambda: _rewind(run, config, step))
            rollout = _rollout(policy, config, sandbox)
            return cls(config, policy, updater, source, rollout, run, ranks, base, step, step)

    def learn(self, minibatches: Sequence[Sequence[Sample]]) -> dict[str, float]:
        """Update the model on this rank's samples, and what plays the episodes with it.

        Raises:
            MemoryLimitError: the device has no memory left.
        """
        with exhaustion_said("learning", self.policy.device):
            learned = self.updater.update(minibatches)
            if self.policy.model is not self.updater.model:
                copy_weights(self.policy.model, self.updater.model)
        return learned

    def save(self) -> None:
        """Write a checkpoint of the last step done, unless there is one.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self.saved_step == self.step:
            return
        keep, updater = self.config.keep_checkpoints, self.updater
        if self.ranks.size == 1:
            state = {"updater": updater.state(), "base": self.base}
            self.run.save(self.step, self.policy, state, keep)
        else:
            state = {"updater": updater.small_state(), "base": self.base}
            self.run.save_shards(self.step, self.policy, updater.tensors(), state, keep, self.ranks)
        self.saved_step = self.step


def load_source(config: TrainConfig, split: Split) -> TaskSource:
    """The problems of a split.

    Raises:
        UserError: there is no such source, or it cannot be read.
    """
    try:
        return load_tasks(config.tasks, split, config.seed)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_policy(policy: Policy, config: TrainConfig) -> None:
    """Check that the model can be trained with these settings.

    Raises:
        PolicyError: its context is too short, or packed samples do not give its own numbers.
    """
    check_context(policy, config)
    error = packing_error(policy.model)
    if not error < _MAX_PACKING_ERROR:
        raise PolicyError(
            f"{policy.name}: log-probabilities of packed samples are off by {error:.2g} nats; "
            "architectures with scaled or capped logits or attention sinks cannot be trained; use "
            "a Qwen2.5, Qwen3, Llama or similar model"
        )


def check_context(policy: Policy, config: TrainConfig) -> None:
    """Check that a whole episode fits into the model's context.

    Raises:
        PolicyError: it does not.
    """
    wanted = config.max_prompt_tokens + config.max_response_tokens
    if wanted > policy.context_length:
        raise PolicyError(
            f"{policy.name} attends to {policy.context_length} tokens, and prompt and response may "
            f"have {wanted}; lower --max-response-tokens or --max-prompt-tokens"
        )
    if 0 < config.cache_tokens < wanted + SPARE_CELLS:
        raise PolicyError(
            f"--cache-tokens {config.cache_tokens} holds no whole episode: prompt and response may "
            f"have {wanted}; give {wanted + SPARE_CELLS} or more, or 0 for a quarter of the memory"
        )


def _load(name: str, config: TrainConfig, ranks: Ranks) -> Policy:
    policy = load_policy(name, ranks.device)
    check_policy(policy, config)
    return policy


def _require_agreement(policy: Policy, ranks: Ranks) -> None:
    """Check that all ranks have the same weights, which each has loaded for itself."""
    names = [] if ranks.size == 1 else ranks.gather(lambda: weights_fingerprint(policy.model))
    other = next((rank for rank, name in enumerate(names) if name != names[0]), None)
    if other is not None:
        raise PolicyError(
            f"rank {other} loaded other weights than rank 0 under the name {policy.name!r}; give "
            "all machines the same --model"
        )


def _free_path(config: TrainConfig) -> str:
    path = config.run_dir or f"runs/{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    RunDirectory.require_free(Path(path))
    return path


def _rewind(run: RunDirectory, config: TrainConfig, step: int) -> None:
    run.save_config(config)
    run.forget_after(step)


def _trainer(
    config: TrainConfig, ranks: Ranks, start: Callable[[], Policy], known_base: str | None = None
) -> tuple[Policy, Updater, str]:
    """The policy that samples, the updater, and the fingerprint of what KL term or LoRA refer to.

    Args:
        config: every setting.
        ranks: the model is sharded over.
        start: loads the policy that is trained.
        known_base: that fingerprint when the run began.

    Raises:
        UserError: a model cannot be loaded or trained, or is another one than it was.
    """
    policy, reference, base = ranks.together(lambda: _models(config, ranks, start))
    if known_base and base != known_base:
        raise CheckpointError(
            f"the model {config.model!r}, which the run started from and still refers to "
            f"({'its adapters' if config.lora_rank else '--kl-coefficient'}), has changed since; "
            f"put the old one back, or start a new run from the last checkpoint"
        )
    if config.lora_rank:
        add_lora(policy.model, config.lora_rank, config.lora_alpha)
    model = policy.model
    if ranks.mesh is not None:
        policy.model = whole_copy(model, config.dtype)
        shard(model, ranks.mesh, config.dtype)
        if reference is not None:
            shard(reference, ranks.mesh, config.dtype)
    settings = asdict(config)
    update = UpdateConfig(**{name: settings[name] for name in UpdateConfig.__slots__})
    return policy, Updater(model, update, reference, ranks), base


def _models(
    config: TrainConfig, ranks: Ranks, start: Callable[[], Policy]
) -> tuple[Policy, Any, str]:
    """The policy, a KL term's reference where it is a model of its own, and the fingerprint."""
    policy, reference, base = start(), None, ""
    if config.lora_rank:
        base = weights_fingerprint(policy.model)
    elif config.kl_coefficient > 0:
        reference = load_policy(config.model, ranks.device).model.requires_grad_(False)
        base = weights_fingerprint(reference)
    return policy, reference, base


@contextmanager
def _sandbox(config: TrainConfig, ranks: Ranks) -> Iterator[Sandbox]:
    """What else may be missing, found out before a large model is loaded; closed at an error."""

    def start() -> Sandbox:
        check_logger(config.logger)
        return open_sandbox(config.rollout())

    sandbox = ranks.together(start)
    try:
        yield sandbox
    except BaseException:
        sandbox.close()
        raise


def _rollout(policy: Policy, config: TrainConfig, sandbox: Sandbox) -> Rollout:
    sampler = Sampler(
        policy,
        config.temperature,
        max_batch=config.sample_batch,
        dtype=config.dtype,
        cache_tokens=config.cache_tokens,
    )
    return Rollout(policy, sampler, config.rollout(), sandbox)
