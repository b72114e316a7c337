"""Files of episodes: nothing is lost, and errors name the line that cannot be read."""

import json
from fractions import Fraction
from threading import Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import call, decode, sampled

from cleaner_env import (
    CodeToolEnv,
    Episode,
    EpisodeFileError,
    SAARWrapper,
    Task,
    read_episodes,
    write_episodes,
)
from cleaner_env.completion import Completion, Tokens
from cleaner_env.episode import RollbackRecord, Turn
from cleaner_env.episode_io import episode_to_dict
from cleaner_env.formats.protocol import ParsedTurn

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
numbers = st.floats(allow_nan=False)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), numbers, any_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(any_text, inner, max_size=3),
        st.dictionaries(st.tuples(st.integers(), any_text), inner, max_size=2),
        st.frozensets(st.integers(), max_size=3),
    ),
    max_leaves=6,
)


@st.composite
def tokens(draw):
    ids = draw(st.lists(st.integers(0, 2**31), max_size=5))
    logprobs = [draw(numbers) for _ in ids]
    grafted = [draw(st.booleans()) for _ in ids]
    return Tokens(tuple(ids), tuple(logprobs), tuple(grafted), decode, draw(st.integers(0, 1)))


@st.composite
def completions(draw, spliced=True):
    raw = draw(st.one_of(st.none(), completions(spliced=False))) if spliced else None
    return Completion(
        draw(any_text),
        draw(st.one_of(st.none(), tokens())),
        truncated=draw(st.booleans()),
        raw=raw,
        retry=draw(st.integers(0, 3)),
    )


maybe_text = st.one_of(st.none(), any_text)
parsed_turns = st.builds(
    ParsedTurn, any_text, maybe_text, maybe_text, maybe_text, call_start=st.integers(0, 99)
)
turns = st.builds(
    Turn,
    completions(),
    parsed_turns,
    observation=maybe_text,
    ok=st.sampled_from([None, True, False]),
    error_class=any_text,
    note=any_text,
    masked=st.booleans(),
)
records = st.builds(
    RollbackRecord,
    position=st.integers(0, 9),
    retry=st.integers(1, 3),
    failed=turns,
    answer=turns,
    outcome=st.sampled_from(["recovered", "retry", "exhausted", "gave_up", "cut_off"]),
    purified=st.one_of(st.none(), turns),
    decision=st.sampled_from([None, "shallow", "deep"]),
    similarity=st.one_of(st.none(), st.floats(0, 1)),
)
episodes = st.builds(
    Episode,
    task=st.builds(
        Task, any_text, any_text, any_text, any_text, st.dictionaries(any_text, plain, max_size=3)
    ),
    prompt=st.lists(st.fixed_dictionaries({"role": any_text, "content": any_text}), max_size=2),
    turns=st.lists(turns, max_size=2),
    raw_turns=st.lists(turns, max_size=2),
    rollbacks=st.lists(records, max_size=1),
    rollback=st.booleans(),
    answer=maybe_text,
    score=numbers,
    reward=numbers,
    terminated=st.booleans(),
    truncated=st.booleans(),
    faulted=st.booleans(),
    max_observation_chars=st.one_of(st.none(), st.integers(1, 9999)),
)


def inside(completion):
    """What two equal completions may still differ in: they are compared as strings."""
    raw = None if completion.raw is completion else inside(completion.raw)
    return str(completion), completion.tokens, completion.truncated, completion.retry, raw


def all_turns(episode):
    yield from episode.turns
    yield from episode.raw_turns
    for record in episode.rollbacks:
        yield from filter(None, (record.failed, record.answer, record.purified))


@settings(max_examples=60, deadline=None)
@given(st.lists(episodes, max_size=2))
def test_whatever_is_written_is_read_back(tmp_path_factory, written):
    path = tmp_path_factory.getbasetemp() / "episodes.jsonl"
    write_episodes(path, written)
    read = read_episodes(path, decode)
    assert read == written
    for new, old in zip(read, written, strict=True):
        pairs = zip(all_turns(new), all_turns(old), strict=True)
        assert all(inside(a.completion) == inside(b.completion) for a, b in pairs)


@pytest.fixture
def episode(sandbox):
    env = SAARWrapper(CodeToolEnv([TASK], sandbox=sandbox))
    env.reset()
    for text in (call("print(y)", "First.\n"), call("print(42)", "Second.\n"), r"\boxed{42}"):
        env.step(sampled(text))
    return env.episode


TASK = {"prompt": "What is 6*7?", "answer": "42"}


def test_a_played_episode_is_read_back_with_its_audit(episode, tmp_path):
    write_episodes(tmp_path / "e.jsonl", [episode])
    (read,) = read_episodes(tmp_path / "e.jsonl", decode)
    assert read == episode and read.stats == episode.stats and read.messages == episode.messages
    assert read.turns[0].completion.tokens.text == read.turns[0].text


def test_what_decodes_the_tokens_need_not_be_copied(sandbox):
    class Tokenizer:
        def __init__(self):
            self.lock = Lock()

        def decode(self, ids):
            return "".join(map(chr, ids))

    env = CodeToolEnv([TASK], sandbox=sandbox)
    env.reset()
    env.step(Completion.from_tokens([52, 50], [-1.0, -1.0], Tokenizer().decode))
    assert episode_to_dict(env.episode)["turns"][0]["token_ids"] == [52, 50]


def test_the_audit_record_of_a_rollback(episode):
    (record,) = episode_to_dict(episode)["rollbacks"]
    assert (record["retry"], record["decision"], record["error_class"]) == (
        1,
        "shallow",
        "NameError",
    )
    assert record["failed"]["text"] == call("print(y)", "First.\n")
    assert record["answer"]["text"] == call("print(42)", "Second.\n")
    assert record["purified"]["text"] == call("print(42)", "First.\n")
    assert 0.5 < record["similarity"] < 1
    assert record["tokens_discarded"] == len(call("print(y)", "Second.\n")) + 1


def test_without_a_decoder_tokens_have_no_text(episode, tmp_path):
    write_episodes(tmp_path / "e.jsonl", [episode])
    (read,) = read_episodes(tmp_path / "e.jsonl")
    assert read.turns[0].completion.tokens.ids == episode.turns[0].completion.tokens.ids
    with pytest.raises(ValueError, match="give decode="):
        read.turns[0].completion.tokens.text  # noqa: B018


def test_appending_adds_lines(episode, tmp_path):
    for _ in range(2):
        write_episodes(tmp_path / "e.jsonl", [episode], append=True)
    assert read_episodes(tmp_path / "e.jsonl", decode) == [episode, episode]


def test_files_are_ascii(tmp_path):
    write_episodes(tmp_path / "e.jsonl", [Episode(Task("π \ud800", "1"), [])])
    assert (tmp_path / "e.jsonl").read_bytes().isascii()


def test_other_values_of_an_entry_come_back_as_their_repr(tmp_path):
    write_episodes(tmp_path / "e.jsonl", [Episode(Task("?", "1", entry={"a": Fraction(1, 2)}), [])])
    assert read_episodes(tmp_path / "e.jsonl")[0].task.entry == {"a": "Fraction(1, 2)"}


GOOD = json.dumps(episode_to_dict(Episode(Task("?", "1"), [])))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "invalid start byte"),
        (b"[1]", "not an episode"),
        (b'{"version": 99}', "its version is 99; this program reads 1"),
        (b'{"version": 1}', "'task' is missing"),
        (GOOD.replace('"turns": []', '"turns": [{}]').encode(), "'parsed' is missing"),
        (GOOD.replace('"prompt": []', '"prompt": 5').encode(), "not an episode"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    path = tmp_path / "e.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n")
    with pytest.raises(EpisodeFileError, match=rf"e\.jsonl, line 3: .*{reason}"):
        read_episodes(path)
