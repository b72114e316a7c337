"""TRL's GRPOTrainer with this environment: ``rollout_func`` with SAAR, ``environment_factory``
without."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import trl
from accelerate.utils import gather_object

from cleaner_env.chat import ChatCodec
from cleaner_env.faults import check_faults
from cleaner_env.integrations.trl_tasks import TrlTasks, with_sandbox
from cleaner_env.integrations.trl_tools import environment_factory
from cleaner_env.saar import SAARWrapper
from cleaner_env.tasks.draw import Tasks
from cleaner_env.token_episode import Grafted, TokenEpisode, check_grafted, token_env

__all__ = ["Rollout", "environment_factory", "rollout_func"]

_COLUMNS = ("prompt_ids", "completion_ids", "env_mask", "logprobs", "episode_reward")
_OF_TOKEN_ENV = ("saar", "format", "max_calls", "strict")
_OF_TRL = {"max_length": "GRPOConfig(max_completion_length=...)", "measure": "nothing in its place"}


class Rollout(TrlTasks):
    """Episodes with SAAR for GRPOTrainer; see ``rollout_func``.

    Attributes:
        episodes: those of the last call, for people.
    """

    def __init__(
        self, tasks: Tasks | None, grafted: Grafted, workers: int, options: dict[str, Any]
    ) -> None:
        check_grafted(grafted)
        own = {name: options[name] for name in _OF_TOKEN_ENV if name in options}
        super().__init__(tasks, {n: v for n, v in options.items() if n not in own}, _OF_TRL)
        # Made for its errors too: what is mistyped is refused before anything is sampled.
        self._saar = SAARWrapper(self._source, **(own.get("saar") or {}))
        self._grafted = grafted
        self._workers = workers
        self._options = options
        self._codec: ChatCodec | None = None
        self._envs: list[SAARWrapper] = []
        self.episodes: list[TokenEpisode] = []

    def __call__(self, prompts: Sequence[Any], trainer: trl.GRPOTrainer) -> dict[str, Any]:
        """Play an episode for each prompt; the prompts of a group are the same."""
        tasks = [self.task(prompt) for prompt in prompts]
        codec = self._codec = self._codec or self._prepare(trainer)
        place = trainer.state.global_step, trainer.accelerator.process_index
        seeds = np.random.SeedSequence([trainer.args.seed, *place]).generate_state(len(tasks))
        envs = [self._env(number, codec, trainer) for number in range(len(tasks))]
        longest = _context_length(trainer)
        self.episodes = [
            TokenEpisode(env, codec, task, seed=int(seed), max_context=longest)
            for env, task, seed in zip(envs, tasks, seeds, strict=True)
        ]
        with ThreadPoolExecutor(self._workers) as threads:
            self._play(trainer, threads)
        faults = [one.fault for one in self.episodes if one.episode.faulted]
        check_faults(faults, len(self.episodes))
        columns: dict[str, Any] = {name: [] for name in _COLUMNS}
        for one in self.episodes:
            row = one.row(self._grafted)
            columns["prompt_ids"].append(row.prompt_ids)
            # TRL wants at least a token, which an episode spoilt at its first turn does not have.
            columns["completion_ids"].append(row.response_ids or [codec.stop_ids[0]])
            columns["env_mask"].append(row.mask or [0])
            # Grafted tokens were sampled in another context; None makes no correction for that.
            pairs = zip(row.logprobs, row.grafted, strict=True)
            known = [None if grafted else logprob for logprob, grafted in pairs]
            columns["logprobs"].append(known or [0.0])
            columns["episode_reward"].append(row.reward)
        return columns if trainer.use_vllm else columns | {"logprobs": None}

    def reward(self, episode_reward: list[float | None], **others: Any) -> list[float | None]:
        """The reward function for GRPOTrainer: what the environment says, None for spoilt episodes.

        Logs counts of the episodes, per episode, under ``saar/``.
        """
        stats = [one.episode.stats for one in self.episodes]
        for name in ("calls", "failures", "triggered", "recovered", "tokens_discarded"):
            others["log_metric"](f"saar/{name}", sum(getattr(s, name) for s in stats) / len(stats))
        return episode_reward

    def _play(self, trainer: trl.GRPOTrainer, threads: ThreadPoolExecutor) -> None:
        """Sample and step until every episode is over, in every process.

        Sampling may be collective, so a process that is done samples on, and drops the turn.
        """
        while True:
            playing = [one for one in self.episodes if not one.over]
            if not any(gather_object([len(playing)])):
                return
            contexts = [one.context for one in playing] or [self.episodes[0].prompt_ids]
            # TRL's own engine, which turns gradient checkpointing off for as long as it samples.
            ids, logprobs = trainer._generate_single_turn(contexts, None, {}, num_generations=1)
            if logprobs is None:  # TRL computes those that it needs itself
                logprobs = [[0.0] * len(turn) for turn in ids]
            for _ in threads.map(TokenEpisode.step, playing, ids, logprobs):
                pass

    def _env(self, number: int, codec: ChatCodec, trainer: trl.GRPOTrainer) -> SAARWrapper:
        """The environment of a place in the batch. Evaluations have no rollback."""
        while number >= len(self._envs):
            if not self._envs:
                self._options = with_sandbox(self._options, self._workers)
            env = token_env(codec, trainer.max_completion_length, **self._options)
            self._envs.append(env)
        env = self._envs[number]
        training = trainer.model.training
        env.rollback_probability = self._saar.rollback_probability if training else 0.0
        return env

    def _prepare(self, trainer: trl.GRPOTrainer) -> ChatCodec:
        """The model's chat codec; refuses settings under which TRL would train something else."""
        if not hasattr(trainer, "_generate_single_turn"):
            raise ImportError(
                f"TRL {trl.__version__} samples in a way that this adapter does not know; it was "
                "written for TRL 1.16: pip install 'trl==1.16.*'"
            )
        if trainer.tools:
            raise ValueError(
                "with tools= or environment_factory= TRL does not read env_mask, and would train "
                "what programs print; leave them out: rollout_func calls the tool itself"
            )
        if trainer.chat_template_kwargs:
            raise ValueError(
                f"chat_template_kwargs={trainer.chat_template_kwargs} would not reach the prompts; "
                "set the variables at the top of tokenizer.chat_template, as in "
                "'{%- set enable_thinking = false -%}' + tokenizer.chat_template"
            )
        return ChatCodec(trainer._tokenizer, trainer.eos_token_ids)


def rollout_func(
    tasks: Tasks | None = None, *, grafted: Grafted = "recompute", workers: int = 2, **options: Any
) -> Rollout:
    """GRPOTrainer's ``rollout_func``: it trains purified trajectories, whose tokens are exactly
    those that were sampled.

        rollout = rollout_func("gsm8k:train.jsonl", max_turns=8)
        GRPOTrainer(model, rollout.reward, config, rollout.dataset(1000), rollout_func=rollout)

    Args:
        tasks: problems, as ``CodeToolEnv`` takes them.
        grafted: whether TRL trains grafted tokens, with log-probabilities that it computes in the
            purified context (and no correction for vLLM's), or leaves them out (``"mask"``).
        workers: the number of programs that run at the same time, in each process.
        options: arguments of ``CodeToolEnv`` (``max_turns``, ``system_prompt``, ``sandbox``, ...)
            and of ``token_env`` (``saar``, ``format``, ``max_calls``, ``strict``).
    """
    return Rollout(tasks, grafted, workers, options)


def _context_length(trainer: trl.GRPOTrainer) -> int | None:
    """The most tokens that the engine takes, as far as that is known here."""
    if trainer.use_vllm and trainer.vllm_mode == "colocate":
        return int(trainer.vllm_generation.llm.llm_engine.model_config.max_model_len)
    config = trainer.model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None)
