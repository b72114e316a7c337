"""Models from the hub, without a hub."""

import socket
import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from cleaner_rl.errors import PolicyError
from cleaner_rl.models import policy


@pytest.fixture
def no_hub(monkeypatch):
    """A hub at a port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"http://localhost:{probe.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    policy._require_hub.cache_clear()
    return address


@pytest.mark.parametrize(
    "load", [policy.load_policy, policy.load_tokenizer, policy.load_model_config]
)
def test_a_hub_out_of_reach_is_reported_at_once(no_hub, monkeypatch, capsys, load):
    monkeypatch.setattr(_http.time, "sleep", lambda _: pytest.fail("it tries again"))
    began = time.monotonic()
    with pytest.raises(PolicyError, match=f"{no_hub} cannot be reached .*; check --model"):
        load("bundeld")
    assert time.monotonic() - began < 5
    assert f"asking {no_hub} for bundeld" in capsys.readouterr().err


def test_a_model_in_the_cache_needs_no_hub(no_hub, monkeypatch):
    monkeypatch.setattr(policy, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    policy._require_hub("some/model")
