"""The splice, in text and in tokens. Tokens are strings here, joined to make the text."""

from cleaner_env import Completion, Tokens, difflib_similarity, splice

VOCABULARY = [
    "<end>",
    "old",
    "new",
    " ",
    "[",
    "]",
    "bug",
    "fix",
    "d[",
    "w[",
    "ld",
    "o",
    "[b",
    "ug",
    "é",
]
STOP = 0


def decode(ids):
    return "".join(VOCABULARY[i] for i in ids)


def turn(*words, logprob=-1.0, grafted=False):
    ids = tuple(VOCABULARY.index(word) for word in (*words, "<end>"))
    tokens = Tokens(ids, (logprob,) * len(ids), (grafted,) * len(ids), decode, stop_length=1)
    return Completion(tokens.text, tokens)


def words(completion):
    return [VOCABULARY[i] for i in completion.tokens.ids]


def join(failed, corrected, similarity=1.0, gamma=0.5):
    return splice(
        failed,
        failed.index("["),
        corrected,
        corrected.index("["),
        similarity=similarity,
        gamma=gamma,
    )


def test_shallow_keeps_old_reasoning_and_takes_new_call():
    result = join(turn("old", "[", "bug", "]"), turn("new", "[", "fix", "]"))
    assert result.decision == "shallow"
    assert result.completion == "old[fix]"
    assert words(result.completion) == ["old", "[", "fix", "]", "<end>"]


def test_shallow_marks_only_the_call_as_grafted():
    result = join(
        turn("old", "[", "bug", "]", logprob=-1.0), turn("new", "[", "fix", "]", logprob=-2.0)
    )
    assert result.completion.tokens.grafted == (False, True, True, True, True)
    assert result.completion.tokens.logprobs == (-1.0, -2.0, -2.0, -2.0, -2.0)


def test_deep_takes_the_new_turn_whole():
    result = join(turn("old", "[", "bug", "]"), turn("new", "[", "fix", "]"), similarity=0.4)
    assert result.decision == "deep"
    assert result.completion == "new[fix]"
    assert result.completion.tokens.grafted == (True,) * 5


def test_similarity_equal_to_gamma_is_shallow():
    result = join(turn("old", "[", "]"), turn("new", "[", "]"), similarity=0.5, gamma=0.5)
    assert result.decision == "shallow"


def test_second_splice_keeps_the_first_ones_origins():
    first = join(turn("old", "[", "bug", "]"), turn("new", "[", "bug", "]"))
    second = join(first.completion, turn("new", " ", "[", "fix", "]"))
    assert second.completion == "old[fix]"
    assert second.completion.tokens.grafted == (False, True, True, True, True)


def test_after_a_deep_splice_the_reasoning_stays_grafted():
    first = join(turn("old", "[", "bug", "]"), turn("new", "[", "bug", "]"), similarity=0.0)
    second = join(first.completion, turn("old", "[", "fix", "]"))
    assert second.completion == "new[fix]"
    assert all(second.completion.tokens.grafted)


def test_marker_glued_to_the_reasoning_alike_on_both_sides_is_cut_before_the_glue():
    # "o" + "ld" + "[b" "ug" and "old" + "[" ...: the cut lies where both have a boundary.
    result = join(turn("o", "ld", "[b", "ug", "]"), turn("new", "[b", "ug", "]"))
    assert result.decision == "shallow"
    assert words(result.completion) == ["o", "ld", "[b", "ug", "]", "<end>"]


def test_cut_may_lie_inside_the_call_where_both_calls_begin_alike():
    # Neither side has a boundary before "[", both have one after it.
    result = join(turn("o", "d[", "bug", "]"), turn("new", "w[", "fix", "]"))
    assert result.decision == "shallow"
    assert words(result.completion) == ["o", "d[", "fix", "]", "<end>"]
    assert result.completion.tokens.grafted == (False, False, True, True, True)


def test_no_common_boundary_makes_the_splice_deep():
    # On the left "[" is glued to the character before it, on the right to the one after it.
    left = turn("o", "d[", "bug", "]")
    right = turn("new", "[b", "fix", "]")
    result = join(left, right)
    assert result.decision == "deep"
    assert result.completion == right


def test_plain_text_is_spliced_as_text():
    result = join(Completion("old[bug]"), Completion("new[fix]"))
    assert result.completion == "old[fix]"
    assert result.completion.tokens is None


def test_what_the_agent_sent_is_kept():
    sent = turn("new", "[", "fix", "]")
    result = join(turn("old", "[", "bug", "]"), sent)
    assert result.completion.raw is sent


def test_similarity_is_difflibs():
    assert difflib_similarity("abcd", "bcde") == 0.75
