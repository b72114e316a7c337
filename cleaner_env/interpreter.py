"""Interpreter: runs the programs of an episode. Packages above import the sandbox from here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sandbox import LIGHT_PRELOAD, Limits, Result, Sandbox, SandboxError, Session

__all__ = ["LIGHT_PRELOAD", "Interpreter", "Limits", "Result", "Sandbox", "SandboxError"]


class Interpreter:
    """Runs the programs of one episode: each on its own or, if ``stateful``, as cells of a session.

    ``sandbox`` is called when a sandbox is first needed.
    """

    def __init__(self, sandbox: Callable[[], Sandbox], stateful: bool) -> None:
        self.sandbox = sandbox
        self.stateful = stateful
        self._session: Session | None = None
        self._before: int | None = None  # the state before a turn of several calls

    def run_turn(self, codes: Sequence[str]) -> list[Result]:
        """Run a turn's programs up to the first that fails, and return their results.

        Raises:
            SandboxError: the sandbox is broken, or cannot keep variables; the turn left no trace.
        """
        results: list[Result] = []
        runner = self._at_a_turns_beginning(len(codes)) if self.stateful else self.sandbox()
        for code in codes:
            try:
                results.append(runner.run(code))
            except BaseException:
                self.take_back()
                raise
            if not results[-1].ok:
                break
        return results

    def take_back(self) -> None:
        """Undo what the failed last turn left behind: its calls before the one that failed."""
        if self._session is not None and self._before is not None:
            self._session.rollback(self._before)

    def copied(self, sandbox: Callable[[], Sandbox]) -> Interpreter:
        """An interpreter that continues from the same point in another sandbox."""
        other = Interpreter(sandbox, self.stateful)
        if self._session is not None:
            other._session, other._before = self._session.copy(sandbox()), self._before
        return other

    def close(self) -> None:
        """End the session, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _at_a_turns_beginning(self, calls: int) -> Session:
        if self._session is None:
            self._session = self.sandbox().session()
        if self._before is not None:
            self._session.release(self._before)
        # A call that fails leaves nothing behind, but the turn's earlier calls do.
        self._before = self._session.checkpoint() if calls > 1 else None
        return self._session
