"""Old names: settings that transformers 4, and servers built on it, look for in saved files.

transformers 5 moved some settings and writes the new places only. transformers 4 silently takes a
default for each that it misses, and the model computes something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

Names = dict[str, Any]

_MOVED = re.compile(r"rope|rotary|num_experts$")


def old_names(source: str) -> Names:
    """The old names in a directory or on the hub, and the class of the tokenizer."""
    config, _ = PreTrainedConfig.get_config_dict(source)
    return {
        **_moved(config),
        "tokenizer_class": get_tokenizer_config(source).get("tokenizer_class"),
    }


def _moved(config: Mapping[str, Any]) -> Names:
    inner = {n: _moved(v) for n, v in config.items() if n.endswith("_config") and v}
    return inner | {n: v for n, v in config.items() if _MOVED.search(n) and n != "rope_parameters"}


def add_old_names(directory: Path, known: Mapping[str, Any]) -> None:
    """Add the old names to saved files: as the source had them, else derived from the new ones."""
    with _rewritten(directory / "config.json") as config:
        _add(config, {name: value for name, value in known.items() if name != "tokenizer_class"})
    with _rewritten(directory / "tokenizer_config.json") as tokenizer:
        tokenizer["tokenizer_class"] = known.get("tokenizer_class") or tokenizer["tokenizer_class"]
        if tokenizer["tokenizer_class"] == "TokenizersBackend":
            tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(tokenizer.get("extra_special_tokens"), list):
            tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")


@contextmanager
def _rewritten(file: Path) -> Iterator[Names]:
    content = json.loads(file.read_text("utf-8"))
    yield content
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def _add(config: Names, known: Mapping[str, Any]) -> None:
    """Add to a configuration and to those inside it, such as that of the text model."""
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, dict):
            _add(value, known.get(name, {}))
    config |= {n: v for n, v in {**_derived(config), **known}.items() if n not in config}


def _derived(config: Names) -> Names:
    """The old names for ``rope_parameters``, which may be given for each kind of layer."""
    rope = config.get("rope_parameters") or {}
    whole = rope.get("full_attention") or rope
    if "rope_theta" not in whole:
        return {}
    names = {n: whole[n] for n in ("rope_theta", "partial_rotary_factor") if n in whole}
    scaling = {name: value for name, value in whole.items() if name not in names}
    names["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
    if local := rope.get("sliding_attention"):
        names["rope_local_base_freq"] = local["rope_theta"]
    if config.get("model_type") == "gpt_neox":
        names["rotary_emb_base"] = names["rope_theta"]
        names["rotary_pct"] = names["partial_rotary_factor"]
    return names
