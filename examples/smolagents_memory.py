"""The interpreter as a tool of smolagents, whose memory keeps the failed call, and a way around.

An agent of smolagents, like most agent frameworks, decides itself what its model is shown. SAAR
rewrites the history of the environment, ``env.episode``, but not the agent's memory: without help
the model goes on seeing its failed call, although the recorded episode is purified. A callback that
drops a step from the memory whenever a splice has replaced its call makes the two agree again.

A script is the model here; any model of smolagents takes its place. Needs ``pip install
smolagents``.
"""

from __future__ import annotations

from typing import Any

from smolagents import ActionStep, Tool, ToolCallingAgent
from smolagents.models import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    Model,
)

from cleaner_env import CodeToolEnv, Episode, HermesFormat, SAARWrapper

TASK = {"prompt": "What is 12 factorial?", "answer": "479001600"}


class Interpreter(Tool):
    """The environment's tool."""

    name = "code_interpreter"
    description = "Runs a Python program and returns what it prints."
    inputs = {"code": {"type": "string", "description": "The program. Print the results."}}  # noqa: RUF012
    output_type = "string"

    def __init__(self, env: SAARWrapper) -> None:
        super().__init__()
        self.env = env

    def forward(self, code: str) -> str:
        """Take the call as a turn of the episode."""
        return self.env.step(HermesFormat().render(code))[0]


class Purifier:
    """Callback of smolagents: what a splice replaced leaves the agent's memory too."""

    def __init__(self, env: SAARWrapper) -> None:
        self.env = env
        self.seen = 0

    def __call__(self, step: ActionStep, agent: ToolCallingAgent) -> None:
        """Look at what the step did to the episode; it is not in the memory yet."""
        new = self.env.episode.rollbacks[self.seen :]
        self.seen += len(new)
        if new and new[-1].purified is not None:
            failed = agent.memory.steps.pop()
            if new[-1].decision == "shallow":  # the first reasoning stays
                step.model_output = failed.model_output


class Script(Model):
    """In place of a model: forgets the import, adds it after the error, and gives the answer.

    ``shown`` has the text of what it was shown before each turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def generate(self, messages: list[ChatMessage], **_: Any) -> ChatMessage:
        """The next turn."""
        self.shown.append("\n".join(str(message.content) for message in messages[1:]))
        turns = (
            ("Let me compute.", "code_interpreter", {"code": "print(math.factorial(12))"}),
            ("Again.", "code_interpreter", {"code": "import math\nprint(math.factorial(12))"}),
            ("Done.", "final_answer", {"answer": r"\boxed{479001600}"}),
        )
        text, name, arguments = turns[len(self.shown) - 1]
        call = ChatMessageToolCallFunction(name=name, arguments=arguments)
        calls = [ChatMessageToolCall(id=f"call{len(self.shown)}", type="function", function=call)]
        return ChatMessage(role=MessageRole.ASSISTANT, content=text, tool_calls=calls)


def play(purified: bool) -> tuple[Episode, str]:
    """An episode, and what the model was shown before its last turn."""
    env = SAARWrapper(CodeToolEnv(max_turns=8))
    env.reset(options={"task": TASK})
    model = Script()
    callbacks = [Purifier(env)] if purified else []
    agent = ToolCallingAgent([Interpreter(env)], model, step_callbacks=callbacks, verbosity_level=0)
    env.step(str(agent.run(TASK["prompt"])))  # the final answer reaches the environment like this
    env.close()
    return env.episode, model.shown[-1]


def main() -> dict[bool, bool]:
    """Whether the model still sees its failed call in the end, without the callback and with it."""
    sees = {}
    for purified in (False, True):
        episode, shown = play(purified)
        sees[purified] = "NameError" in shown
        print(
            f"callback {'on' if purified else 'off'}: reward {episode.reward:g}, rollbacks "
            f"{episode.stats.triggered}, the model sees its failed call: {sees[purified]}"
        )
    return sees


if __name__ == "__main__":
    main()
