"""TextSpace: it contains any text, in one process and across processes."""

import multiprocessing
from copy import deepcopy

import pytest
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given
from hypothesis import strategies as st

from cleaner_env.text_space import TextSpace

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@given(any_text)
def test_any_text_is_in_the_space(text):
    assert text in TextSpace()


def test_text_beyond_the_length_is_not():
    assert "abc" in TextSpace(3)
    assert "abcd" not in TextSpace(3)
    assert b"abc" not in TextSpace(3)


def test_samples_are_in_the_space_and_follow_the_seed():
    space, again = TextSpace(10, seed=3), TextSpace(10, seed=3)
    samples = [space.sample() for _ in range(50)]
    assert all(sample in space for sample in samples)
    assert samples == [again.sample() for _ in range(50)]
    assert any(ord(character) > 0xFFFF for character in "".join(samples))


@given(st.lists(any_text, min_size=3, max_size=3))
def test_shared_memory_gives_back_what_was_written(texts):
    space = TextSpace(20)
    memory = create_shared_memory(space, n=3, ctx=multiprocessing)
    shared = read_from_shared_memory(space, memory, n=3)
    for index, text in enumerate(texts):
        write_to_shared_memory(space, index, text, memory)
    assert list(shared) == texts


def test_a_copy_of_what_is_shared_does_not_change():
    space = TextSpace(20)
    memory = create_shared_memory(space, n=1, ctx=multiprocessing)
    shared = read_from_shared_memory(space, memory, n=1)
    write_to_shared_memory(space, 0, "before", memory)
    copy = deepcopy(shared)
    write_to_shared_memory(space, 0, "now", memory)
    assert (copy, shared[0]) == (("before",), "now")


def test_text_too_long_for_shared_memory_is_refused():
    space = TextSpace(3)
    memory = create_shared_memory(space, n=1, ctx=multiprocessing)
    with pytest.raises(ValueError, match="shared_memory=False"):
        write_to_shared_memory(space, 0, "abcd", memory)
