"""Session: everything that a training works on, opened for a new run or from a checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cleaner_env.interpreter import Sandbox
from cleaner_env.task_files import load_tasks
from cleaner_env.tasks import Split, TaskSource
from cleaner_rl.config import TrainConfig
from cleaner_rl.errors import CheckpointError, PolicyError, UserError
from cleaner_rl.loggers import check_logger
from cleaner_rl.logprobs import packing_error
from cleaner_rl.lora import add_lora, require_same_base
from cleaner_rl.policy import Policy, load_policy
from cleaner_rl.rollout import Rollout, open_sandbox
from cleaner_rl.run_directory import RunDirectory
from cleaner_rl.sampler import Sampler
from cleaner_rl.update import UpdateConfig, Updater

_MAX_PACKING_ERROR = 1e-2
"""Nats by which packed and plain log-probabilities may differ at the start."""


@dataclass(slots=True)
class Session:
    """What a training works on.

    Attributes:
        config: every setting.
        policy: to be trained.
        updater: its optimiser.
        source: of the problems.
        rollout: plays the episodes.
        run: where everything is written.
        step: the last step done; the policy is that of this step.
        saved_step: step of the newest checkpoint.
    """

    config: TrainConfig
    policy: Policy
    updater: Updater
    source: TaskSource
    rollout: Rollout
    run: RunDirectory
    step: int
    saved_step: int

    @classmethod
    def open(cls, config: TrainConfig) -> Session:
        """Start a run, or continue ``config.resume``.

        Nothing is written before everything that is needed was loaded and checked.

        Raises:
            UserError: the tasks, the model, the sandbox, the run or its checkpoint cannot be used.
        """
        return cls._continue(config) if config.resume else cls._begin(config)

    @classmethod
    def _begin(cls, config: TrainConfig) -> Session:
        path = Path(config.run_dir or f"runs/{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}")
        RunDirectory.require_free(path)
        source = load_source(config, "train")
        with _sandbox(config) as sandbox:
            policy = load_policy(config.model, config.device)
            check_policy(policy, config)
            run = RunDirectory.create(path, config)
            rollout = _rollout(policy, config, sandbox)
            session = cls(config, policy, _updater(policy, config), source, rollout, run, 0, -1)
            try:
                session.save()
            except CheckpointError:
                shutil.rmtree(path)
                raise
            return session

    @classmethod
    def _continue(cls, config: TrainConfig) -> Session:
        run = RunDirectory.open(Path(config.resume))
        source = load_source(config, "train")
        checkpoint, state = run.load_latest()
        step = int(state["step"])
        if config.steps < step:
            raise UserError(f"the run has done {step} steps already; give --steps {step} or more")
        with _sandbox(config) as sandbox:
            # With LoRA the checkpoint holds merged weights; adapters go on from those of the base.
            source_model = config.model if config.lora_rank else str(checkpoint)
            policy = load_policy(source_model, config.device)
            check_policy(policy, config)
            updater = _updater(policy, config)
            updater.load_state(state["updater"])
            if config.lora_rank:
                require_same_base(policy.model, checkpoint)
            run.save_config(config)
            run.forget_after(step)
            rollout = _rollout(policy, config, sandbox)
            return cls(config, policy, updater, source, rollout, run, step, step)

    def save(self) -> None:
        """Write a checkpoint of the last step done, unless there is one.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self.saved_step != self.step:
            state = {"updater": self.updater.state()}
            self.run.save(self.step, self.policy, state, self.config.keep_checkpoints)
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
    wanted = config.max_prompt_tokens + config.max_response_tokens
    if wanted > policy.context_length:
        raise PolicyError(
            f"{policy.name} attends to {policy.context_length} tokens, and prompt and response may "
            f"have {wanted}; lower --max-response-tokens or --max-prompt-tokens"
        )
    error = packing_error(policy.model)
    if not error < _MAX_PACKING_ERROR:
        raise PolicyError(
            f"{policy.name}: log-probabilities of packed samples are off by {error:.2g} nats; "
            "architectures with scaled or capped logits or attention sinks cannot be trained; use "
            "a Qwen2.5, Qwen3, Llama or similar model"
        )


def _updater(policy: Policy, config: TrainConfig) -> Updater:
    settings = asdict(config)
    update = UpdateConfig(**{name: settings[name] for name in UpdateConfig.__slots__})
    if config.lora_rank:
        add_lora(policy.model, config.lora_rank, config.lora_alpha)
    reference = None
    if config.kl_coefficient > 0 and not config.lora_rank:
        reference = load_policy(config.model, config.device).model.requires_grad_(False)
    return Updater(policy.model, update, reference)


@contextmanager
def _sandbox(config: TrainConfig) -> Iterator[Sandbox]:
    """What else may be missing, found out before a large model is loaded; closed at an error."""
    check_logger(config.logger)
    sandbox = open_sandbox(config.rollout())
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
