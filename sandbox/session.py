"""Session: cells that share their variables; one that fails leaves no trace."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Protocol, Self

from .errors import Irreproducible, SandboxError, WorkerFault
from .execution import explained
from .keeper_link import DEAD, KeeperLink
from .result import Limits, Result, Status
from .worker import Action, Job, Worker

MAX_CHECKPOINTS = 16
MORE_TIME = 4.0  # times the limit, for a cell that is run again: it was in time once


class Pool(Protocol):
    """What a session needs of the Sandbox that made it."""

    tier: str

    def serve(self, job: Job, *texts: str, interrupt: Action | None = None) -> Result: ...

    def sheltered(self, work: Action) -> None: ...

    def session(self, limits: Limits) -> Session: ...

    def end_session(self, worker: Worker) -> None: ...


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that was committed, and what it printed."""

    code: str
    stdout: str


class Session:
    """A Python interpreter that keeps its variables from one `run` to the next.

    Each cell is a transaction. When it fails, for whatever reason, variables, modules, working
    directory, files and open files are what they were before it; when it ends well they stay.
    `checkpoint` and `rollback` return to an earlier state. A state is a forked process, so what a
    cell costs does not depend on how much there is to keep, apart from the kernel's page tables.

    A cell that leaves threads running fails with LiveThreadsError: a process with threads cannot be
    forked whole. Processes that it leaves running are killed. Standard input is empty. `limits`
    hold for every cell; memory_mb is for all of the state.

    When the sandbox breaks, the session is restored on a fresh worker by running its cells again.

    Made by Sandbox.session(). Thread-safe: one cell at a time. A context manager.
    """

    def __init__(self, sandbox: Pool, limits: Limits):
        self.limits = limits
        self._sandbox = sandbox
        self._pid = os.getpid()
        self._turn = threading.Lock()  # of the callers of run()
        self._lock = threading.Lock()  # of the state
        self._numbers = itertools.count(1)
        self._cells: list[Cell] = []
        self._state = 0
        self._checkpoints: dict[int, list[Cell]] = {}
        self._link: KeeperLink | None = None
        self._closed = False
        self._interrupted = False
        self._broken = False  # by its own cells, and not restored since

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that make up the present state, in their order."""
        return tuple(self._cells)

    def run(self, code: str) -> Result:
        """Run `code` as the next cell and return how it ended; only when ok it is committed.

        Raises SandboxError when the session or its sandbox is closed, or when the session was lost
        and could not be restored; QueueFull and TypeError as Sandbox.run does.
        """

        def cell(worker: Worker) -> Result:
            with self._lock:  # an interrupted caller may be gone before its cell has ended
                return self._serve(worker, code)

        with self._turn:
            return self._sandbox.serve(cell, code, interrupt=self._hang_up)

    async def arun(self, code: str) -> Result:
        """As `run`, without blocking the event loop."""
        return await asyncio.to_thread(self.run, code)

    def checkpoint(self) -> int:
        """A number for the present state, to which `rollback` can return. Free until it is used.

        Raises SandboxError when there are 16 already.
        """
        with self._lock:
            if len(self._checkpoints) == MAX_CHECKPOINTS and self._state not in self._checkpoints:
                raise SandboxError(
                    f"a session keeps {MAX_CHECKPOINTS} checkpoints: release one of "
                    f"{sorted(self._checkpoints)}"
                )
            self._checkpoints[self._state] = list(self._cells)
            return self._state

    def rollback(self, checkpoint: int) -> None:
        """Return to a state. The checkpoint stays; those made after it as well.

        Raises ValueError when there is no such checkpoint.
        """
        with self._lock:
            cells = self._known(checkpoint)
            left, self._state, self._cells = self._state, checkpoint, list(cells)
            self._forget(left)

    def release(self, checkpoint: int) -> None:
        """Give up a checkpoint and its memory.

        Raises ValueError when there is no such checkpoint.
        """
        with self._lock:
            self._known(checkpoint)
            del self._checkpoints[checkpoint]
            self._forget(checkpoint)

    def replay(self) -> list[Result]:
        """Run the committed cells in a new session; one result for each, up to one that fails."""
        results = []
        with self._sandbox.session(self.limits) as other:
            for cell in self.cells:
                results.append(other.run(cell.code))
                if not results[-1].ok:
                    break
        return results

    def copy(self, sandbox: Pool | None = None) -> Session:
        """A session with the same state and checkpoints, in the same sandbox or another.

        It runs their cells again before its first one, and then raises SandboxError when they do
        not print the same.
        """
        with self._lock:
            other = Session(sandbox or self._sandbox, self.limits)
            other._state, other._cells, other._closed = self._state, list(self._cells), self._closed
            other._checkpoints = dict(self._checkpoints)
            other._numbers = itertools.count(max(self._state, *self._checkpoints, 0) + 1)
            return other

    def close(self) -> None:
        """End the session and free its processes."""
        self._sandbox.sheltered(self._close)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def __del__(self) -> None:
        self._sandbox.sheltered(self._drop)  # else its worker would count it for ever

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known(self, checkpoint: int) -> list[Cell]:
        if checkpoint not in self._checkpoints:
            raise ValueError(f"no checkpoint {checkpoint!r}; there are {sorted(self._checkpoints)}")
        return self._checkpoints[checkpoint]

    def _hang_up(self) -> None:
        self._interrupted = True
        if link := self._link:
            link.hang_up()

    def _forget(self, state: int) -> None:
        """Let go of a state's process, unless the state is needed."""
        if self._link and state != self._state and state not in self._checkpoints:
            try:
                self._link.forget(state)
            except OSError:
                self._drop()  # the next cell restores the session

    def _serve(self, worker: Worker, code: str) -> Result:
        if self._closed:
            raise SandboxError("the session is closed")
        self._interrupted = False
        try:
            if self._link is None:
                self._restore(worker)
            before = self._state
            result, lost, began = self._run(code, self.limits)
            # An earlier cell may have killed the process of the state.
            if lost and not began and not self._interrupted:
                self._drop()
                self._restore(worker)
                result, lost, _ = self._run(code, self.limits)
        except Irreproducible as error:
            self._drop()
            if not self._broken:
                raise
            return explained(Result(Status.ERROR, tier=self._sandbox.tier), f"SessionLost: {error}")
        except (OSError, WorkerFault) as error:
            self._drop()
            raise WorkerFault(f"lost the session: {error}") from error
        except BaseException:
            self._drop()
            raise
        if lost:
            self._drop()
        self._forget(before)
        return result

    def _run(
        self, code: str, limits: Limits, state: int | None = None
    ) -> tuple[Result, bool, bool]:
        """Run a cell, whose state gets that number; its result, whether the session is lost, and
        whether the cell is known to have begun."""
        assert self._link
        state = next(self._numbers) if state is None else state
        name = f"cell{len(self._cells) + 1}.py"
        result, message = self._link.run(code, name, self._state, state, limits)
        if message["committed"] and result.ok:
            self._state = state
            self._cells.append(Cell(code, result.stdout))
        elif message["committed"]:
            self._forget(state)
        self._broken |= message["lost"] and message is not DEAD
        return result, message["lost"], message["began"]

    def _restore(self, worker: Worker) -> None:
        """Make all the states that are needed again, by running the cells that led to them."""
        present, needed = self._state, self._checkpoints | {self._state: self._cells}
        try:
            self._link = KeeperLink(worker, self.limits)
            self._link.open()
            self._make_again(needed)
            self._broken = False
        finally:  # also when it is to be tried once more
            self._state, self._cells = present, list(needed[present])

    def _make_again(self, needed: dict[int, list[Cell]]) -> None:
        """Make states, and on the way to them others, which go as soon as nothing is built on them.

        Each state takes a process and a descriptor, and a session may have more cells than those.
        """
        named = [(tuple(cells), number) for number, cells in needed.items() if cells]
        kept = {tuple(cells) for cells in needed.values()}
        between = {path[:n] for path, _ in named for n in range(1, len(path))} - kept
        to_come = Counter(path[:-1] for path in [*between, *(path for path, _ in named)])
        made: dict[tuple[Cell, ...], int] = {(): 0}
        for path, number in sorted(named, key=lambda item: len(item[0])):
            for length in range(1, len(path) + 1):
                step, before = path[:length], path[: length - 1]
                if step in made and step != path:
                    continue
                made[step] = self._again(made[before], step, number if step == path else None)
                to_come[before] -= 1
                if not to_come[before] and before not in kept:
                    self._forget(made[before])

    def _again(self, base: int, path: tuple[Cell, ...], state: int | None = None) -> int:
        """Run the last cell of a path on the state that the others led to; the new state."""
        self._state, self._cells = base, list(path[:-1])
        longer = replace(self.limits, wall_s=self.limits.wall_s * MORE_TIME)
        result, _, _ = self._run(path[-1].code, longer, state)
        if not result.ok or result.stdout != path[-1].stdout:
            raise Irreproducible(
                f"the session was lost, and cell {len(path)} did not do the same again: "
                f"{result.status} {result.traceback or repr(result.stdout)}"
            )
        return self._state

    def _drop(self) -> None:
        """Leave the keeper, which then ends with all its processes."""
        if (link := self._link) is None:
            return
        self._link = None
        if os.getpid() != self._pid:  # a forked copy of the host
            link.let_go()
        else:
            link.close()
            self._sandbox.end_session(link.worker)
