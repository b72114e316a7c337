"""SAAR against a plain model of the paper's rules, over random scripted episodes.

The model below is written from the rules alone: it knows nothing of environments or wrappers.
Programs are words: ``ok...`` prints itself, anything else fails with an error that names it, and a
``loud`` one with a long error.
Tokens are characters, with one more that ends a turn.
"""

import random
from collections import Counter
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import call, sampled

from cleaner_env import CodeToolEnv, Completion, HermesFormat, SAARWrapper
from cleaner_env.saar import exhausted_note
from sandbox import Result, Status

MARK = "<tool_call>"
MALFORMED = "<tool_call>{}</tool_call>"


class Words:
    """Runs programs that are words."""

    def run(self, code):
        if code.startswith("ok"):
            return Result(Status.OK, stdout=f"{code}\n")
        return Result(Status.ERROR, traceback=complaint(code), error_class="WordError")


def complaint(code):
    return f"WordError: {code}" + "!" * 150 * ("loud" in code)


def observe(text):
    """Whether a turn's call works, and what the tool answers."""
    parsed = HermesFormat().parse(text)
    if parsed.code is None:
        return False, f"ToolCallError: {parsed.error}"
    works = parsed.code.startswith("ok")
    return works, parsed.code if works else complaint(parsed.code)


def similarity(old, new):
    """Of the programs where both can be read, else of the blocks."""
    parsed = [HermesFormat().parse(text) for text in (old, new)]
    readable = all(p.code is not None for p in parsed)
    return SequenceMatcher(None, *(p.code if readable else p.call for p in parsed)).ratio()


@dataclass
class Sent:
    """What the agent sends: a text, whether it has tokens, whether sampling was cut off."""

    text: str
    with_tokens: bool = False
    cut: bool = False

    def action(self):
        completion = sampled(self.text) if self.with_tokens else Completion(self.text)
        completion.truncated = self.cut
        return completion


@dataclass
class Kept:
    """A turn in the history. ``marks``: one letter a token, s sampled, g grafted, - masked."""

    text: str
    marks: str
    observation: str | None = None

    @classmethod
    def of(cls, sent):
        return cls(sent.text, "s" * (len(sent.text) + 1) if sent.with_tokens else "")

    def length(self):
        return len(self.marks) or len(self.text)

    def splice(self, answer, gamma):
        """The purified turn, and whether it is shallow."""
        alike = similarity(self.text, answer.text)
        if gamma == "never" or (gamma != "always" and alike < gamma):
            return Kept(answer.text, "g" * len(Kept.of(answer).marks)), "deep"
        place, cut = self.text.index(MARK), answer.text.index(MARK)
        grafted = "g" * (len(answer.text) - cut + 1) if answer.with_tokens else ""
        return Kept(self.text[:place] + answer.text[cut:], self.marks[:place] + grafted), "shallow"


class Model:
    """The rules. ``shown``: the history before each turn; ``counts``: the statistics."""

    def __init__(self, mode, gamma, retries, max_turns, max_length, drawn):
        self.gamma = {"shallow-only": "always", "deep-only": "never"}.get(mode, gamma)
        self.rollback = drawn and mode in ("saar", "shallow-only", "deep-only")
        self.masking = drawn and mode == "mask-failed"
        self.retries, self.max_turns, self.max_length = retries, max_turns, max_length
        self.history, self.shown, self.records = [], [], []
        self.counts, self.end = Counter(), None

    def used(self, history):
        return sum(turn.length() + len(turn.observation or "") for turn in history)

    def over(self, history, sent):
        """The turn was cut off, or does not fit any more."""
        room = self.max_length
        return sent.cut or (room and self.used(history) + Kept.of(sent).length() > room)

    def full(self, history):
        return len(history) >= self.max_turns or (
            self.max_length and self.used(history) >= self.max_length
        )

    def take(self):
        self.shown.append(list(self.history))
        sent = next(self.script)
        self.counts["tokens_sampled"] += len(Kept.of(sent).marks)
        return sent

    def play(self, script):
        self.script = iter(script)
        try:
            while self.end is None:
                self.turn()
        except StopIteration:
            pass
        self.counts["turns"] = len(self.history)
        kept = sum(len(turn.marks) for turn in self.history)
        self.counts["tokens_discarded"] = self.counts["tokens_sampled"] - kept
        return self

    def turn(self):
        sent = self.take()
        over = self.over(self.history, sent)
        self.history.append(Kept.of(sent))
        if over:
            self.end = "truncated"
        elif MARK not in sent.text:
            self.end = "terminated"
        else:
            self.position(sent)

    def position(self, sent):
        """A call, and what becomes of it until the next position."""
        tries, decision = 0, None
        while True:
            attempt = self.history[-1]
            works, attempt.observation = observe(attempt.text)
            self.counts["calls"] += 1
            self.counts["failures"] += not works
            self.counts["first_attempt_calls"] += tries == 0
            self.counts["first_attempt_successes"] += works and tries == 0
            if self.masking and not works:
                attempt.marks = "-" * len(attempt.marks)
            full = self.full(self.history)
            if tries:
                outcome = "recovered" if works else "cut_off" if full else None
                outcome = outcome or ("exhausted" if tries == self.retries else "retry")
                self.record(outcome, tries, decision)
            if works or full or not self.rollback or tries == self.retries:
                break
            answer = self.take()
            tries += 1
            self.counts["triggered"] += tries == 1
            if self.over(self.history, answer):
                self.record("cut_off", tries)
                self.end = "truncated"
                return
            if MARK not in answer.text:
                self.record("gave_up", tries)
                self.history.append(Kept.of(answer))
                self.end = "terminated"
                return
            self.history[-1], decision = attempt.splice(answer, self.gamma)
            self.counts[decision] += 1
        if tries and tries == self.retries and not works and not full:
            self.rollback = False
            if tries >= 2:
                attempt.observation += "\n" + exhausted_note(tries + 1)
        if self.full(self.history):
            self.end = "truncated"

    def record(self, outcome, tries, decision=None):
        self.records.append((len(self.history) - 1, tries, outcome, decision))
        if outcome != "retry":
            self.counts[outcome] += 1


def messages(history):
    result = [{"role": "user", "content": "?"}]
    for turn in history:
        result.append({"role": "assistant", "content": turn.text})
        if turn.observation is not None:
            result.append({"role": "tool", "content": turn.observation})
    return result


def marks(turn):
    """The same letters for a turn of the real episode."""
    tokens = turn.completion.tokens
    flags = () if tokens is None else tokens.grafted
    return "".join("-" if turn.masked else "g" if grafted else "s" for grafted in flags)


REASONINGS = ["", "First.\n", "Then.\n"]
WORDS = ["ok", "ok, well then", "bad", "bad word", "bad words", "worse", "bad loud words"]
TEXTS = [
    *(call(word, reasoning) for word in WORDS for reasoning in REASONINGS),
    *(call(word, reasoning) for word in WORDS[2:] for reasoning in REASONINGS),
    *(reasoning + MALFORMED for reasoning in REASONINGS),
    *[r"\boxed{1}"] * 4,
]
MODES = ["saar", "saar", "saar", "off", "shallow-only", "deep-only", "mask-failed"]


def check(texts, with_tokens, cut, mode, gamma, retries, max_turns, max_length, drawn):
    """Play the script in the environment and in the model, and compare all there is."""
    script = [Sent(text, with_tokens, cut=i == cut) for i, text in enumerate(texts)]
    inner = CodeToolEnv(
        [{"prompt": "?", "answer": "1"}],
        sandbox=Words(),
        system_prompt=None,
        max_turns=max_turns,
        max_length=max_length,
    )
    env = SAARWrapper(
        inner, gamma=gamma, max_retries=retries, rollback_probability=float(drawn), mode=mode
    )
    _, info = env.reset(seed=0)
    seen, terminated, truncated = [], False, False
    for sent in script:
        if terminated or truncated:
            break
        seen.append(info["messages"])
        _, _, terminated, truncated, info = env.step(sent.action())
    model = Model(mode, gamma, retries, max_turns, max_length, drawn).play(script[: len(seen)])
    episode = env.episode
    assert seen == [messages(history) for history in model.shown[: len(seen)]]
    assert info["messages"] == episode.messages == messages(model.history)
    assert [marks(turn) for turn in episode.turns] == [turn.marks for turn in model.history]
    assert [turn.text for turn in episode.raw_turns] == [sent.text for sent in script[: len(seen)]]
    assert (terminated, truncated) == (model.end == "terminated", model.end == "truncated")
    assert Counter(asdict(episode.stats)) == Counter(model.counts)
    records = [(r.position, r.retry, r.outcome, r.decision) for r in episode.rollbacks]
    assert records == model.records
    discarded = sum(record.tokens_discarded for record in episode.rollbacks)
    assert discarded == episode.stats.tokens_discarded


@settings(max_examples=500, deadline=None)
@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12),
    with_tokens=st.booleans(),
    cut=st.one_of(st.none(), st.integers(0, 11)),
    mode=st.sampled_from(MODES),
    gamma=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    retries=st.integers(0, 3),
    max_turns=st.integers(1, 5),
    max_length=st.one_of(st.none(), st.integers(100, 700)),
    drawn=st.booleans(),
)
def test_the_wrapper_follows_the_rules(
    texts, with_tokens, cut, mode, gamma, retries, max_turns, max_length, drawn
):
    check(texts, with_tokens, cut, mode, gamma, retries, max_turns, max_length, drawn)


def test_the_wrapper_follows_the_rules_in_thousands_of_long_episodes():
    """Without hypothesis, which seldom draws twelve turns, and is slow."""
    draw = random.Random(0)
    for _ in range(2000):
        check(
            texts=[draw.choice(TEXTS) for _ in range(12)],
            with_tokens=draw.random() < 0.5,
            cut=draw.choice([None, None, None, draw.randrange(12)]),
            mode=draw.choice(MODES),
            gamma=draw.choice([0.0, 0.5, 0.7, 1.0]),
            retries=draw.randint(1, 3),
            max_turns=draw.randint(2, 5),
            max_length=draw.choice([None, draw.randint(150, 900)]),
            drawn=draw.random() < 0.9,
        )
