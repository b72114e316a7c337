"""TRL's GRPOTrainer with the plain environment: a tool that TRL calls while it plays itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trl.chat_template_utils import add_response_schema, qwen3_template

from cleaner_env.chat import ChatCodec
from cleaner_env.chat.messages import turn_text
from cleaner_env.completion import Completion
from cleaner_env.env import CodeToolEnv
from cleaner_env.faults import check_faults, try_step
from cleaner_env.formats import HermesFormat, choose_format
from cleaner_env.integrations.trl_tasks import TrlTasks, with_sandbox
from cleaner_env.tasks.draw import Tasks

_OF_TRL = {
    "max_turns": "GRPOConfig(max_tool_calling_iterations=...)",
    "max_length": "GRPOConfig(max_completion_length=...)",
    "system_prompt": "a system message in the data set's prompts",
    "format": "tokenizer.response_template",
    "saar": "rollout_func, because TRL owns the history here",
}
"""Arguments of the environment that are TRL's own in this interface, and where they are set."""


class CodeInterpreter:
    """One place in TRL's batch. TRL offers every public method but ``reset`` to the model.

    Attributes:
        env: the environment that runs the programs.
        fault: the error that spoilt the episode, or one that a second attempt mended.
    """

    def __init__(self, factory: Environments) -> None:
        self._factory = factory
        self.env = factory.make_env()
        self.fault: Exception | None = None

    def reset(self, prompt: Any, **_others: Any) -> None:
        """Begin an episode on the problem behind a prompt."""
        self.fault = None
        self.env.reset(options={"task": self._factory.task(prompt)})

    def code_interpreter(self, code: str) -> str:
        """Run a Python program and return what it prints.

        Args:
            code: The program. Print the results.

        Returns:
            What it printed, or its error.
        """
        return self._step(self._factory.format.render(code))

    def _step(self, turn: str) -> str:
        """Take a turn. TRL would show the model any exception as an error of its own."""
        if self.env.episode.faulted:
            return ""
        result, fault = try_step(self.env, turn)
        self.fault = fault or self.fault
        return "" if result is None else result[0]

    def _finish(self, message: Mapping[str, Any], ended: bool) -> float | None:
        """The reward, once the episode's last message is there; None if the episode was spoilt."""
        episode = self.env.episode
        if message["role"] == "assistant" and not message.get("tool_calls"):
            text = turn_text(message, self._factory.format)
            self._step(Completion(text, truncated=not ended))
        if episode.faulted:
            return None
        if not (episode.terminated or episode.truncated):
            self.env.truncate()
        return episode.reward


class Environments(TrlTasks):
    """Environments for GRPOTrainer; see ``environment_factory``."""

    def __init__(self, tasks: Tasks | None, tokenizer: Any, options: dict[str, Any]) -> None:
        super().__init__(tasks, options, _OF_TRL)
        self._options = options
        self._shared: dict[str, Any] | None = None
        self._codec = ChatCodec(tokenizer)
        self.format = HermesFormat()  # TRL reads the calls; this one can write any program
        _add_response_template(tokenizer)

    def __call__(self) -> CodeInterpreter:
        """The environment of one place in the batch."""
        return CodeInterpreter(self)

    def make_env(self) -> CodeToolEnv:
        """An environment without a limit of turns; all share a sandbox."""
        if self._shared is None:
            self._shared = with_sandbox(self._options)
        return CodeToolEnv(format=self.format, max_turns=sys.maxsize, **self._shared)

    def reward(
        self,
        completions: Sequence[Sequence[Mapping[str, Any]]],
        completion_ids: Sequence[Sequence[int]],
        environments: Sequence[CodeInterpreter],
        **others: Any,
    ) -> list[float | None]:
        """The reward function for GRPOTrainer: hands final answers to the environments, which TRL
        does not do. None for episodes that the sandbox or a scorer spoilt.

        Logs the number of failed programs per episode, which TRL does not see.
        """
        rewards = [
            environment._finish(messages[-1], ids[-1] in self._codec.stop_ids)
            for messages, ids, environment in zip(
                completions, completion_ids, environments, strict=True
            )
        ]
        faulted = [e.fault for e in environments if e.env.episode.faulted]
        check_faults(faulted, len(environments))
        failures = sum(e.env.episode.stats.failures for e in environments)
        others["log_metric"]("tools/failed_programs", failures / len(environments))
        return rewards


def environment_factory(tasks: Tasks | None, tokenizer: Any, **options: Any) -> Environments:
    """GRPOTrainer's ``environment_factory``: TRL plays the episodes, and calls the interpreter.

    TRL owns the history, so failed calls stay in it: there is no SAAR.

        environments = environment_factory("gsm8k:train.jsonl", tokenizer)
        trainer = GRPOTrainer(
            model, environments.reward, config, environments.dataset(1000),
            processing_class=tokenizer, environment_factory=environments,
        )

    Args:
        tasks: problems, as ``CodeToolEnv`` takes them.
        tokenizer: the model's. It gets a ``response_template`` if TRL knows none for its template.
        options: arguments of ``CodeToolEnv``, except for those that are TRL's own here.

    Raises:
        ValueError: TRL cannot read the calls that the chat template shows.
    """
    return Environments(tasks, tokenizer, options)


def _add_response_template(tokenizer: Any) -> None:
    """Tell TRL how to read this model's calls, which it finds out for templates that it knows."""
    if getattr(tokenizer, "response_template", None) is not None:
        return
    try:
        add_response_schema(tokenizer)
    except ValueError as error:
        anchor = qwen3_template["start_anchor"]
        if choose_format(tokenizer.chat_template) != "hermes" or anchor not in _render(tokenizer):
            raise ValueError(
                f"TRL does not know the chat template of {tokenizer.name_or_path!r}; set "
                "tokenizer.response_template to a template that reads its calls (TRL has some in "
                "trl.chat_template_utils), or use rollout_func, which needs none"
            ) from error
        tokenizer.response_template = qwen3_template


def _render(tokenizer: Any) -> str:
    question = [{"role": "user", "content": "?"}]
    text: str = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    return text
