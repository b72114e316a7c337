"""Rollout: many episodes played at the same time, with the policy's turns sampled in batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode
from cleaner_env.interpreter import Sandbox
from cleaner_env.saar import SAARWrapper
from cleaner_env.task import Task
from cleaner_env.token_samples import context_ids
from cleaner_rl.errors import ToolFormatWarning
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.inference.sampling import Request
from cleaner_rl.models.policy import Policy, template_errors
from cleaner_rl.rollout.environment import check_faults, make_env, open_sandbox
from cleaner_rl.rollout.runner import EpisodeRunner, FinishedEpisode, Job
from cleaner_rl.rollout.tool_queue import ToolQueue
from cleaner_rl.settings import EpisodeConfig, Precision


class Rollout:
    """Plays episodes with a policy. Use as a context manager, or call ``close``.

    ``sandbox`` runs the programs and is closed with the rollout; None opens one for ``config``.

    Raises:
        OutageError: programs cannot be isolated on this machine.
        UserError: the tool-call format does not work with these settings.
    """

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        config: EpisodeConfig,
        sandbox: Sandbox | None = None,
    ) -> None:
        self.policy = policy
        self.sampler = sampler
        self.config = config
        with template_errors():
            self.format = policy.codec.make_format(
                config.tool_format, max_calls=config.max_calls, strict=config.strict_calls
            )
        for warning in (*policy.codec.notes, policy.codec.format_warning(config.tool_format)):
            if warning is not None:
                warnings.warn(warning, ToolFormatWarning, stacklevel=2)
        self.sandbox = open_sandbox(config) if sandbox is None else sandbox
        self.context_length = policy.context_length
        self.observation_ids = policy.codec.observation_ids
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="env")
        self._envs: list[SAARWrapper] = []
        self.tool_wait_seconds = 0.0

    @classmethod
    def open(
        cls,
        policy: Policy,
        config: EpisodeConfig,
        dtype: Precision,
        sandbox: Sandbox | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> Rollout:
        """A rollout with the sampler that its settings ask for."""
        temperature, batch, cells = config.temperature, config.sample_batch, config.cache_tokens
        sampler = Sampler(
            policy, temperature, top_p, batch, dtype=dtype, top_k=top_k, cache_tokens=cells
        )
        return cls(policy, sampler, config, sandbox)

    def __enter__(self) -> Rollout:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the sandbox and the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.sandbox.close()

    def play(
        self,
        tasks: Sequence[Task],
        seed: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Episode]:
        """Play one episode for each task.

        Args:
            tasks: the tasks; repeat one to get a group of episodes.
            seed: seed of rollback draws and sampling; the same seed gives the same episodes.
            on_progress: called with the number of finished episodes and the number of all.

        Raises:
            OutageError: too many episodes were spoilt, or answers cannot be compared. If only a few
                are spoilt, they are returned with ``faulted`` set; leave them out.
        """
        jobs = [Job(index, task, seed + index) for index, task in enumerate(tasks)]
        episodes: dict[int, Episode] = {}
        for finished in self.stream(jobs, len(jobs)):
            episodes[finished.job.index] = finished.episode
            if on_progress is not None:
                on_progress(len(episodes), len(jobs))
        return [episodes[index] for index in range(len(jobs))]

    def stream(
        self,
        jobs: Sequence[Job],
        at_once: int,
        on_turn: Callable[[Job, Completion], None] | None = None,
    ) -> Iterator[FinishedEpisode]:
        """Yield episodes in the order in which they end, beginning another whenever one ends.

        Turns are sampled while the programs of other episodes run (``ToolQueue``). ``on_turn`` is
        called with each sampled turn before it is stepped. Errors are those of ``play``.
        """
        self.sampler.reset()
        threads = torch.get_num_threads()
        if self.policy.device.type == "cpu":
            # Programs run meanwhile and need cores; a torch thread without one would delay all.
            torch.set_num_threads(max(1, threads - min(self.config.workers, threads // 2)))
        queue = ToolQueue(self._threads, self.config.schedule)
        waiting, free = iter(jobs), list(range(at_once))
        sampling: dict[int, EpisodeRunner] = {}
        faults: list[Exception | None] = []
        try:
            while True:
                runners = [self._begin(free.pop(0), job) for job in islice(waiting, len(free))]
                runners += queue.take(self.sampler.clock, idle=not (sampling or runners))
                for runner in runners:
                    if not runner.over:
                        sampling[runner.number] = runner
                        self._ask(runner)
                        continue
                    free.append(runner.number)
                    self.sampler.forget(runner.number)
                    if runner.env.episode.faulted:
                        faults.append(runner.fault)
                        check_faults(faults, len(jobs))
                    yield runner.finished()
                if not (sampling or runners or queue):
                    return
                for number, turn in self.sampler.advance() if sampling else ():
                    runner = sampling.pop(number)
                    if on_turn is not None:
                        on_turn(runner.job, turn)
                    queue.put(runner, turn, self.sampler.clock)
        finally:
            self.tool_wait_seconds += queue.waited
            queue.close()
            self.sampler.reset()
            torch.set_num_threads(threads)

    def prompt_ids(self, episode: Episode) -> list[int]:
        """The token ids of an episode's prompt."""
        return self.policy.codec.prompt_ids(episode.prompt)

    def prompt_length(self, task: Task) -> int:
        """The number of tokens in the prompt of an episode on this task."""
        if not self._envs:
            self._envs.append(self._make_env())
        return len(self.policy.codec.prompt_ids(self._envs[0].get_wrapper_attr("prompt")(task)))

    def response_length(self, episode: Episode) -> int:
        """The number of tokens after the prompt of a purified episode, without the last
        observation."""
        *before, last = episode.turns
        tokens = last.completion.tokens
        length = len(context_ids((), before, self.observation_ids))
        return length + (0 if tokens is None else len(tokens))

    def _begin(self, number: int, job: Job) -> EpisodeRunner:
        while number >= len(self._envs):
            self._envs.append(self._make_env())
        runner = EpisodeRunner.begin(number, self._envs[number], job)
        runner.prompt_ids = self.prompt_ids(runner.env.episode)
        return runner

    def _make_env(self) -> SAARWrapper:
        return make_env(
            self.config,
            self.sandbox,
            self.format,
            knows_tool=self.policy.knows_tool,
            max_length=self.config.max_response_tokens,
            measure=lambda text: len(self.observation_ids(text)),
        )

    def _ask(self, runner: EpisodeRunner) -> None:
        """Ask the sampler for a runner's next turn."""
        turns = runner.env.episode.turns
        context = context_ids(runner.prompt_ids, turns, self.observation_ids)
        room = min(int(runner.info["remaining"]), self.context_length - len(context))
        limit = max(1, min(room, self.config.max_turn_tokens))
        # Lookaheads count as turns: a turn with the random numbers of an earlier one would tend to
        # repeat it, and a correction would depend on the draw that failed.
        seed = (runner.job.seed, len(runner.env.episode.raw_turns))
        self.sampler.submit(Request(runner.number, context, limit, seed))
