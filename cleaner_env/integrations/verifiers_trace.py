"""SAAR in a trace of verifiers: the conversation that is sent, and what of it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import verifiers.v1 as vf

from cleaner_env.chat import turn_text
from cleaner_env.chat.codec import tool_message
from cleaner_env.episode import Episode, RollbackRecord
from cleaner_env.formats import TextFormat

_UNTRAINED = "compaction_attempt"
"""The link by which verifiers knows a branch that is no training sample."""
_OUTPUT_BELOW = "(its output stands in the last result of this turn)"


class _Token(NamedTuple):
    id: int
    logprob: float
    grafted: bool


class PurifiedTrace:
    """Writes the history in the server's own messages, and marks what splices do to the trace.

    A message that is sent again as it came is one node of the trace. A spliced turn is a new node,
    which verifiers takes for text that nobody sampled. Its tokens are those of verifiers' renderer;
    where they are those of the failed turn up to some point, and those of the lookahead's turn from
    there on, they are trained.

    Call ``sampled`` with each answer, and ``stepped`` when the environment has taken it.

    Attributes:
        lost: spliced turns that the renderer wrote with other tokens; they are not trained.
    """

    def __init__(
        self, trace: vf.Trace, episode: Episode, format: TextFormat, train_grafted: bool
    ) -> None:
        self.lost = 0
        self._trace = trace
        self._episode = episode
        self._format = format
        self._train_grafted = train_grafted
        self._sent: list[Mapping[str, Any]] = []  # for each turn of the history, as is:
        self._sampled: list[int] = []  # the node in which it was sampled
        self._answer: Mapping[str, Any] = {}
        self._node = 0
        self._path: list[int] = []
        self._splice: tuple[int, int, int] | None = None
        self._moved: dict[int, tuple[int, list[_Token]]] = {}

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """What is sent next."""
        sent: list[Mapping[str, Any]] = list(self._episode.prompt)
        for turn, message in zip(self._episode.turns, self._sent, strict=True):
            sent.append(message)
            calls = message.get("tool_calls") or ()
            if turn.observation is not None and not calls:
                sent.append(tool_message(turn.observation, "user"))
            elif turn.observation is not None:
                shown = [_OUTPUT_BELOW] * (len(calls) - 1) + [turn.observation]
                for call, text in zip(calls, shown, strict=True):
                    sent.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        return sent

    def sampled(self, message: Mapping[str, Any]) -> None:
        """Note the answer, and the branch on which verifiers put it."""
        self._answer = {key: value for key, value in message.items() if value is not None}
        self._node = self._trace.calls[-1].node
        nodes, node, path = self._trace.nodes, self._node, []
        while node is not None:
            if nodes[node].message.role == "assistant":
                path.append(node)
            node = nodes[node].parent
        self._path = path[::-1]
        if self._splice is not None:
            position, failed, answer = self._splice
            self._mark(self._path[position], failed, answer)
            self._splice = None

    def stepped(self) -> None:
        """Note what became of the answer."""
        turns, records = self._episode.turns, self._episode.rollbacks
        record = records[-1] if len(self._sent) == len(turns) else None
        if record is None:
            self._sent.append(self._answer)
            self._sampled.append(self._node)
        elif record.purified is None:  # cut off: the failed turn is the last one that is trained
            last = self._trace.nodes[self._node]
            last.mask, last.logprobs = [False] * len(last.mask), []
        else:
            position, failed = record.position, self._path[record.position]
            self._sent[position] = self._spliced(record, self._sent[position])
            # Where the renderer wrote the failed turn with other tokens, it ends a branch as well.
            for leaf in {self._node, self._sampled[position]} - {failed}:
                link = vf.ParentLink(node=failed, type=_UNTRAINED)
                self._trace.nodes[leaf].semantic_parents.append(link)
            self._sampled[position] = failed
            self._splice = position, failed, self._node

    def _spliced(self, record: RollbackRecord, failed: Mapping[str, Any]) -> Mapping[str, Any]:
        """The purified turn in the server's messages."""
        calls = self._answer.get("tool_calls")
        if record.decision == "deep":
            return self._answer
        if calls and failed.get("tool_calls"):
            return {**failed, "tool_calls": calls}
        assert record.purified is not None
        thought = {k: v for k, v in failed.items() if k not in ("content", "tool_calls")}
        text = record.purified.reasoning.rstrip() if calls else record.purified.text
        text = text.removeprefix(turn_text(thought, self._format).rstrip("\n")).lstrip("\n")
        return {**thought, "content": text, **({"tool_calls": calls} if calls else {})}

    def _mark(self, spliced: int, failed: int, answer: int) -> None:
        """Mark those tokens of a spliced turn that the model sampled."""
        node, before = self._trace.nodes[spliced], self._trace.nodes[failed]
        if not node.token_ids:
            return  # the client keeps no tokens
        (start, kept), (_, moved) = self._tokens(failed), self._tokens(answer)
        ids, tail = node.token_ids[start:], [token.id for token in moved]
        first = _common([token.id for token in kept], ids)
        rest = ids[first:]
        count = next((n for n in range(len(tail), 0, -1) if rest[:n] == tail[-n:]), 0)
        whole = count > 0 or first == len(kept)
        if not kept or not whole or node.token_ids[:start] != before.token_ids[:start]:
            self.lost += 1
            return
        tokens = kept[:first] + [t._replace(grafted=True) for t in moved[len(moved) - count :]]
        trained = [self._train_grafted or not token.grafted for token in tokens]
        node.mask = [*[False] * start, *trained, *[False] * (len(ids) - len(tokens))]
        node.logprobs = [t.logprob for t, own in zip(tokens, trained, strict=True) if own]
        self._moved[spliced] = start, tokens

    def _tokens(self, index: int) -> tuple[int, list[_Token]]:
        """Where a turn begins in its node, and its tokens, sampled or spliced."""
        node = self._trace.nodes[index]
        ids = [i for i, own in zip(node.token_ids, node.mask, strict=True) if own]
        tokens = [_Token(i, p, False) for i, p in zip(ids, node.logprobs, strict=True)]
        return self._moved.get(index, (len(node.token_ids) - len(ids), tokens))


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many elements the two begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
