"""CodeToolEnv: a problem, an assistant that can run Python programs, a reward for the answer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import gymnasium as gym

from cleaner_env.completion import Completion
from cleaner_env.episode import Episode, Turn
from cleaner_env.formats import resolve_format
from cleaner_env.formats.protocol import ToolCallFormat, system_prompt
from cleaner_env.interpreter import Interpreter, Limits, Sandbox
from cleaner_env.observation import format_call_error, format_observations
from cleaner_env.rewards import Ended, Reward, load_reward
from cleaner_env.rollback_protocol import StepResult
from cleaner_env.task import Task
from cleaner_env.tasks.draw import TaskDraw, Tasks
from cleaner_env.text_space import TextSpace
from cleaner_env.transcripts import beginning, describe_turn, ending, transcript


class CodeToolEnv(gym.Env[str, str]):
    r"""Multi-turn problem solving with a sandboxed Python interpreter.

    An action is the text of one assistant turn: a ``str``, or a ``Completion`` that also carries
    the sampled tokens. A turn with a tool call is answered with what the program printed, or with
    its error; a malformed call is an error that the agent sees. A turn without a call is the final
    answer, expected in ``\boxed{}`` (or in a fenced block if the task asks for a program). It ends
    the episode with reward 1 if the task's scorer gives full marks and 0 otherwise, unless
    ``reward`` says something else. Budgets on turns and on length truncate the episode.

    ``reset`` and ``step`` return this ``info``. Keys that do not apply are absent, so that vector
    environments, which pad absent keys and mark them in ``_key``, never show a made-up value:

    =================  =============================================================================
    ``messages``       the conversation so far, as ``{"role", "content"}``: what to show the agent
    ``turn``           number of turns in the history
    ``family``         the task's family
    ``call_ok``        whether the last turn's call succeeded; absent when it had no call
    ``error_class``    why the call failed, such as ``"NameError"``; "" otherwise
    ``remaining``      length left in the budget; absent without a budget
    ``answer``         the final answer, None if none could be found; absent before the end
    ``score``          the scorer's verdict in [0, 1]; absent before the end
    ``lookahead``      from ``SAARWrapper``: whether the next turn answers a failed call
    =================  =============================================================================

    Args:
        tasks: where problems come from: a source, a list of tasks or of ``{"prompt", "answer"}``
            mappings, or an argument of ``load_tasks``, such as ``"gsm8k:PATH"`` or a list of such
            texts, whose training split is used. The default is the reasoning-gym families of
            ``cleaner_env.tasks.families``, or the built-in tasks if reasoning-gym is missing.
        reward: what an episode earns; by default 1 for full marks and 0 otherwise. A text such as
            ``"my_rewards:judge"`` is given to ``load_reward``. Programs judged by the ``code``
            reward run in the same sandbox as calls.
        max_length: the length of all turns and observations at which an episode is truncated, in
            units of ``measure``; an action with tokens counts as that many units.
        max_observation_chars: longer tool output is cut in the middle, with a visible mark.
        system_prompt: the first message; ``"default"`` explains the tool and how to call it in the
            format, None sends none.
        format: how a turn calls the tool: a name in ``cleaner_env.formats.FORMATS``, or a format.
        max_calls: the most calls in one turn. They run in order, up to the first that fails.
        strict: False repairs calls that break the format's rules in ways that models often do, so
            that the agent does not see those errors; see ``docs/environment.md``.
        stateful: an episode's programs share variables and files, like the cells of a notebook. A
            program that fails, or a turn that is rolled back, leaves no trace in them. Needs the
            sandbox's tier ``full``.
        sandbox: a sandbox to share between environments; by default each environment starts its
            own at its first call, and closes it. So does a copy made with ``copy.deepcopy``.
        limits: limits of one program in the environment's own sandbox.
        allow_weak: let the environment's own sandbox run programs where isolation is unavailable.
        render_mode: ``"human"`` prints each turn as it is taken, ``"ansi"`` returns the transcript.

    Raises:
        sandbox.SandboxError: from ``step``, if the sandbox itself is broken. The episode is then
            the same as before the step, and the step may be tried again.
        cleaner_env.rewards.ScorerError: from ``step``, if a scorer raises at the final answer. The
            same holds.
        cleaner_env.rewards.TermError: from ``step``, if a term of the reward fails. The episode has
            then ended, without a reward.
    """

    metadata = {  # noqa: RUF012 (Gymnasium declares it so)
        "render_modes": ["human", "ansi"],
        "render_fps": 1,
    }

    def __init__(
        self,
        tasks: Tasks | None = None,
        *,
        reward: Reward | str | None = None,
        max_turns: int = 16,
        max_length: int | None = None,
        measure: Callable[[str], int] = len,
        max_observation_chars: int = 4096,
        system_prompt: str | None = "default",
        format: str | ToolCallFormat = "hermes",
        max_calls: int = 1,
        strict: bool = True,
        stateful: bool = False,
        sandbox: Sandbox | None = None,
        limits: Limits | None = None,
        allow_weak: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, or None; not {max_length}")
        if render_mode not in (None, "human", "ansi"):
            raise ValueError(f"render_mode must be 'human', 'ansi' or None, not {render_mode!r}")
        if sandbox is not None and (limits is not None or allow_weak):
            raise ValueError(
                "limits and allow_weak belong to the environment's own sandbox; "
                "give them to the shared sandbox instead"
            )
        self.observation_space = TextSpace()
        self.action_space = TextSpace()
        self.render_mode = render_mode
        self.format = resolve_format(format, max_calls=max_calls, strict=strict)
        self.max_turns = max_turns
        self.max_length = max_length
        self.reward = load_reward(reward) if isinstance(reward, str) else reward or Reward()
        self._tasks = TaskDraw(tasks, self.reward)
        self._measure = measure
        self._max_observation_chars = max_observation_chars
        self._system_prompt = system_prompt
        self._stateful = stateful
        self._programs: Interpreter | None = None
        self._sandbox = sandbox
        self._owns_sandbox = sandbox is None
        self._limits = limits or Limits()
        self._allow_weak = allow_weak
        self._episode: Episode | None = None

    @property
    def episode(self) -> Episode:
        """The current episode's buffer."""
        if self._episode is None:
            raise gym.error.ResetNeeded("no episode yet: call reset() first")
        return self._episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: restarts the draw of tasks; the same seed gives the same sequence of tasks.
            options: ``{"task": {"prompt": ..., "answer": ...}}`` or a ``Task`` poses that problem;
                ``{"index": i}`` poses the source's problem ``i``; ``{"family": "gcd"}`` and
                ``{"difficulty": 2}`` restrict the draw to a family, a difficulty, or both, and may
                come with an index among those problems.
        """
        super().reset(seed=seed)
        task = self._tasks.draw(options or {}, self.np_random)
        self.reward.check(task)
        if self.format.name == "fenced" and self.reward.runs_programs(task):
            raise ValueError(
                "the answer to this task is a program in a fenced block, which format 'fenced' "
                "would take for a call; use another format, such as format='hermes'"
            )
        self._end_programs()
        self._episode = Episode(
            task,
            self.prompt(task),
            max_observation_chars=self._max_observation_chars,
            stateful=self._stateful,
        )
        self._show(beginning(self._episode))
        return task.prompt, self._info()

    def prompt(self, task: Task) -> list[dict[str, str]]:
        """The messages with which an episode on this task begins."""
        question = {"role": "user", "content": task.prompt}
        if self._system_prompt is None:
            return [question]
        default = self._system_prompt == "default"
        system = system_prompt(self.format, self._stateful) if default else self._system_prompt
        return [{"role": "system", "content": system}, question]

    def step(self, action: str) -> StepResult:
        """Take one assistant turn; run its call, or end the episode with its answer.

        Raises:
            gym.error.ResetNeeded: there is no running episode.
            sandbox.SandboxError: the sandbox is broken; nothing has been recorded.
        """
        episode = self.episode
        if episode.terminated or episode.truncated:
            raise gym.error.ResetNeeded("the episode is over: call reset() first")
        completion = Completion.of(action)
        turn = Turn(completion, self.format.parse(completion))
        if self.exceeds_budget(completion):
            self._commit(turn)
            return self.truncate()
        if turn.parsed.has_call:
            turn = self._execute(turn)
            self._commit(turn)
            if len(episode.turns) >= self.max_turns or self._budget_is_used_up():
                return self.truncate()
        else:
            self._grade(turn)
        return self._step_result()

    def _execute(self, turn: Turn) -> Turn:
        """Run the turn's programs, up to the first that fails; return the turn with the results."""
        if turn.parsed.error is not None:
            observation = format_call_error(turn.parsed.error)
            return replace(turn, observation=observation, ok=False, error_class="ToolCallError")
        assert turn.code is not None, "a call without an error carries a program"
        codes = turn.parsed.codes
        if self._programs is None:
            self._programs = Interpreter(self._interpreter, self._stateful)
        results = self._programs.run_turn(codes)
        last = results[-1]
        return replace(
            turn,
            observation=format_observations(results, len(codes), self._max_observation_chars),
            ok=last.ok,
            error_class="" if last.ok else last.error_class or last.status.value,
        )

    def _commit(self, turn: Turn) -> None:
        self.episode.commit(turn, self.format.parse)
        self._show(describe_turn(turn))

    def _grade(self, turn: Turn) -> None:
        """End the episode with the reward of its final answer.

        The verdict comes first: if the sandbox or the grader fails, nothing has been recorded.
        """
        episode = self.episode
        runner = self._interpreter() if self.reward.runs_programs(episode.task) else None
        answer, score = self.reward.judge(turn.text, episode.task, runner)
        self._commit(turn)
        episode.answer, episode.score, episode.terminated = answer, score, True
        episode.reward = self._earned()

    def _earned(self) -> float:
        """What the episode earns in its present state."""
        return self.reward(Ended(self.episode, self._used(), self.max_length))

    # What a rollback needs from an environment: see cleaner_env.rollback_protocol.

    def exceeds_budget(self, action: str) -> bool:
        """Whether the turn ran, or would run, into the length budget."""
        completion = Completion.of(action)
        if completion.truncated:
            return True
        return self.max_length is not None and self._used() + self._length(completion) > (
            self.max_length
        )

    def retract(self) -> Turn:
        """Remove the last turn from the history, though not from the raw turns, and return it."""
        self._show("[rollback] the turn above is replaced by:")
        if self._programs is not None:
            self._programs.take_back()
        return self.episode.turns.pop()

    def annotate(self, note: str) -> StepResult:
        """Append a line to the last observation, and return what ``step`` returns."""
        self.episode.turns[-1] = self.episode.turns[-1].with_note(note)
        self._show(note)
        return self.truncate() if self._budget_is_used_up() else self._step_result()

    def truncate(self) -> StepResult:
        """End the episode without an answer, and return what ``step`` returns."""
        self.episode.truncated = True
        self.episode.reward = self._earned()
        return self._step_result()

    def _budget_is_used_up(self) -> bool:
        return self.max_length is not None and self._used() >= self.max_length

    def _used(self) -> int:
        """Length of the history after the prompt."""
        return sum(
            self._length(turn.completion)
            + (0 if turn.observation is None else self._measure(turn.observation))
            for turn in self.episode.turns
        )

    def _length(self, completion: Completion) -> int:
        return self._measure(completion) if completion.tokens is None else len(completion.tokens)

    def _step_result(self) -> StepResult:
        episode = self.episode
        observation = (episode.turns[-1].observation or "") if episode.turns else ""
        if episode.terminated or episode.truncated:
            self._show(ending(episode))
            self._end_programs()
        reward = episode.reward
        return observation, reward, episode.terminated, episode.truncated, self._info()

    def _info(self) -> dict[str, Any]:
        episode = self.episode
        last = episode.turns[-1] if episode.turns else None
        info: dict[str, Any] = {
            "messages": episode.messages,
            "turn": len(episode.turns),
            "family": episode.task.family,
            "error_class": "" if last is None else last.error_class,
        }
        if last is not None and last.ok is not None:
            info["call_ok"] = last.ok
        if self.max_length is not None:
            info["remaining"] = self.max_length - self._used()
        if episode.terminated:
            info |= {"answer": episode.answer, "score": episode.score}
        return info

    def _interpreter(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = Sandbox(limits=self._limits, allow_weak=self._allow_weak)
        return self._sandbox

    def _end_programs(self) -> None:
        if self._programs is not None:
            self._programs.close()
            self._programs = None

    def render(self) -> str | None:
        """The episode so far as text: returned for ``"ansi"``, printed for ``"human"``."""
        if self.render_mode is None:
            gym.logger.warn('render() needs render_mode "human" or "ansi", given to gym.make')
            return None
        text = transcript(self.episode)
        if self.render_mode == "ansi":
            return text
        self._show(text)
        return None

    def _show(self, text: str) -> None:
        """Print for people; characters that their terminal lacks are escaped."""
        if self.render_mode == "human":
            encoding = sys.stdout.encoding or "utf-8"
            print(text.encode(encoding, "backslashreplace").decode(encoding))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy continues from the same point. A stateful one restores its variables by running
        the episode's programs again, and raises SandboxError if they do not print the same."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            if name not in ("_sandbox", "_programs"):
                setattr(copied, name, copy.deepcopy(value, memo))
        copied._sandbox = None if self._owns_sandbox else self._sandbox
        copied._programs = self._programs and self._programs.copied(copied._interpreter)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What pickle takes: everything, as long as no sandbox is running."""
        if self._sandbox is not None:
            raise TypeError(
                "an environment with a sandbox cannot be pickled, because the sandbox's processes "
                "cannot move; make it where it is used, as gym.make_vec does with "
                "gym.make('cleaner_env:CleanerCodeTool-v0', ...), or copy it with copy.deepcopy"
            )
        return vars(self)

    def close(self) -> None:
        """Stop the environment's own sandbox. A shared one is its owner's to close."""
        self._end_programs()
        if self._owns_sandbox and self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None
