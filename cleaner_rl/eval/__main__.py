"""Evaluation from the command line: ``python -m cleaner_rl.eval``."""

from __future__ import annotations

if __name__ == "__main__":  # arguments are checked before the imports below, which take seconds
    from cleaner_rl.commands import start

    start("eval")

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote

from rich.console import Console

from cleaner_env.chat.messages import Usage
from cleaner_env.completion import Completion
from cleaner_env.task import Task
from cleaner_env.tasks.load import first_tasks
from cleaner_rl.agreement import check_agreement
from cleaner_rl.distributed.interrupt import Interrupt
from cleaner_rl.errors import UserError
from cleaner_rl.eval.config import SETTINGS, EvalConfig, parse_eval
from cleaner_rl.eval.evaluate import episode_row, evaluation_jobs
from cleaner_rl.eval.journal import EvalJournal
from cleaner_rl.eval.summary import summarize, table
from cleaner_rl.models.memory import memory_errors
from cleaner_rl.models.policy import load_policy
from cleaner_rl.rollout.endpoint import EndpointRollout
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.rollout.runner import FinishedEpisode, Job
from cleaner_rl.runs.lock import reserved
from cleaner_rl.runs.progress import CountProgress
from cleaner_rl.runs.provenance import tasks_digest, weights_fingerprint
from cleaner_rl.trainer import load_source

COMPLETE, MISSING, INTERRUPTED = 0, 1, 130
"""Exit statuses besides 2, which ``run_command`` gives for a ``UserError``."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; see ``EvalConfig`` for its exit statuses."""
    config = parse_eval(arguments)
    source = load_source(config.tasks, "test", config.seed, config.rollout("off"))
    tasks = first_tasks(source, config.num_tasks)
    if len(tasks) < config.num_tasks:
        print(f"{config.tasks} has only {len(tasks)} held-out tasks", file=sys.stderr)
    directory = config.resume or config.out
    with reserved(Path(directory)) if directory else nullcontext():
        journal = _open_journal(config)
        journal.identify("problems", len(tasks))
        journal.identify("tasks", tasks_digest(tasks))
        total = len(tasks) * config.samples * len(config.modes)
        with Interrupt() as interrupt:
            try:
                _play(config, tasks, journal, interrupt)
            except KeyboardInterrupt:
                print(f"\ninterrupted; {_saved(journal, total)}", file=sys.stderr)
                return INTERRUPTED
            except UserError as error:
                raise type(error)(f"{error}\n{_saved(journal, total)}") from error
        return _finish(config, journal, len(tasks))


def _open_journal(config: EvalConfig) -> EvalJournal:
    if config.resume:
        return EvalJournal.resume(Path(config.resume), config.settings())
    return EvalJournal.begin(Path(config.out), config.settings()) if config.out else EvalJournal()


def _play(
    config: EvalConfig, tasks: Sequence[Task], journal: EvalJournal, interrupt: Interrupt
) -> None:
    """Play what is not in the journal yet."""
    jobs = evaluation_jobs(tasks, config.samples, config.seed)
    if len(journal.rows) == len(jobs) * len(config.modes):
        return
    play = _endpoint_player(config, journal) if config.server.endpoint else _player(config, journal)
    for mode in config.modes:
        left = [job for job in jobs if (mode, job.index) not in journal.rows]
        if left:
            done, label = len(jobs) - len(left), f"episodes, rollback {mode}"
            journal.start_clock()
            with CountProgress(label, len(jobs), Console(stderr=True)) as bar:
                play(left, _Recorder(mode, config.samples, journal, interrupt, bar, done))


@dataclass(slots=True)
class _Recorder:
    """Saves what comes of a mode's episodes; a signal waits until a row is written."""

    mode: str
    samples: int
    journal: EvalJournal
    interrupt: Interrupt
    progress: CountProgress
    done: int
    told: bool = False

    def turn(self, job: Job, turn: Completion, usage: Usage | None = None) -> None:
        """A turn was sampled."""
        with self.interrupt.protected():
            self.journal.add_turn(self.mode, job.index, turn, usage)

    def episode(self, played: FinishedEpisode, usage: Usage | None = None) -> None:
        """An episode ended; a faulted one is not saved, so that it may be tried again."""
        with self.interrupt.protected():
            if not played.episode.faulted:
                row = episode_row(played, self.samples)
                if usage is not None:
                    row["usage"] = asdict(usage)
                self.journal.add_episode(self.mode, row)
            elif not self.told:
                self.told = True
                self.progress.say(f"an episode is missing: {played.fault}")
        self.done += 1
        self.progress.show(self.done)


_Player = Callable[[Sequence[Job], _Recorder], None]


def _player(config: EvalConfig, journal: EvalJournal) -> _Player:
    """Plays with a policy that is loaded here."""
    print(f"loading {config.model} ...", file=sys.stderr, flush=True)
    policy = load_policy(config.model, config.device, config.episode.tool_role)
    check_agreement(policy, policy.context_length, trained=False)
    journal.identify("model", weights_fingerprint(policy.model))
    journal.identify("random numbers", "of each turn")  # earlier versions: of an episode

    def play(jobs: Sequence[Job], recorder: _Recorder) -> None:
        mode, at_once = recorder.mode, min(config.episode.sample_batch, len(jobs))
        jobs = [replace(job, turns=journal.turns(mode, job.index, policy.decode)) for job in jobs]
        with memory_errors("sampling", policy.device):
            rules, top_p, top_k = config.rollout(mode), config.top_p, config.top_k
            rules = replace(rules, sample_batch=at_once)
            opened = Rollout.open(policy, rules, config.dtype, top_p=top_p, top_k=top_k)
            with opened as rollout:
                for played in rollout.stream(jobs, at_once, recorder.turn):
                    recorder.episode(played)

    return play


def _endpoint_player(config: EvalConfig, journal: EvalJournal) -> _Player:
    """Plays with a model on a server."""

    def play(jobs: Sequence[Job], recorder: _Recorder) -> None:
        mode = recorder.mode
        jobs = [replace(job, turns=journal.turns(mode, job.index)) for job in jobs]
        spent = {job.index: journal.usage(mode, job.index) for job in jobs}
        rules, top_p = config.rollout(mode), config.top_p
        rollout = EndpointRollout(config.server, config.model, rules, top_p)
        rollout.play(jobs, spent, recorder.turn, recorder.episode)

    return play


def _finish(config: EvalConfig, journal: EvalJournal, tasks: int) -> int:
    """Print and write what came out."""
    summary = summarize(config, {mode: journal.of_mode(mode) for mode in config.modes}, tasks)
    journal.write_summary(summary)
    rules = config.episode
    print(
        f"{config.model} on {config.tasks}: {tasks} tasks x {config.samples}, temperature "
        f"{rules.temperature:g}, top_p {config.top_p:g}; at most {rules.max_turns} turns, "
        f"{rules.max_response_tokens} tokens, {rules.max_turn_tokens} a turn"
    )
    if summary["results"]:
        print(table(summary))
        print("in brackets: 95% intervals over problems")
    for warning in summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if journal.directory is not None:
        print(f"written to {journal.directory}")
    for mode, count in summary["missing"].items():
        if count:
            print(
                f"rollback {mode}: {count} of {tasks * config.samples} episodes are missing, "
                f"spoilt by the sandbox or the server; {_resume_hint(journal)}",
                file=sys.stderr,
            )
    return COMPLETE if summary["complete"] else MISSING


def _saved(journal: EvalJournal, total: int) -> str:
    """What is left of an evaluation that stopped early."""
    if journal.directory is None:
        return "nothing was saved; --out would keep episodes for --resume"
    if not (journal.directory / SETTINGS).exists():
        return "nothing was written"
    return f"{len(journal.rows)} of {total} episodes are saved. {_resume_hint(journal)}"


def _resume_hint(journal: EvalJournal) -> str:
    if journal.directory is None:
        return "--out would keep the episodes, so that --resume could try these again"
    return f"Continue: python -m cleaner_rl.eval --resume {quote(str(journal.directory))}"
