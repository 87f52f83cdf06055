"""The fields of a GGUF file for a `tokenizer.json`: what llama.cpp makes the same ids of.

llama.cpp has two kinds of BPE. Of byte-level BPE, the file names one of its ways to split text; the
one is taken that splits texts of all kinds as the tokenizer does. The pieces of SentencePiece have
scores in the place of merges, and whatever two tokens together are a token is merged. In the end
the encoder that does as llama.cpp has to give the same ids as the library `tokenizers`.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pm_mined.errors import VocabularyError

from .encoders.gguf import encoder_of
from .encoders.llama_cpp import byte_level_split, split_names
from .encoders.tokenizer_json import tokenizer_json_encoder
from .errors_of_libraries import library_errors
from .readers.gguf import GgufTokenizer
from .readers.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from .readers.tokenizer_json import steps_of

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

_Json: TypeAlias = dict[str, Any]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

PROBES = (
    "Hello, y'all! I've 'told HE'S 'RE we'LL don\u2019s 12345 1234567 12 3.14\n\n\n  x\r\n\t y   ",
    "  3 33 333 3333\t\n =\n  if x==1:\n\t\treturn [a_b]+{c}/ //\n",
    "Größe naïve ÉCOLE Éa ǅ ŒUVRE e\u0301le\u0300ve नमस्ते กำลัง Việt ١٢٣٤ ½³ Ⅷ",
    "日本語のテキスト、々漢字カナ。豈\u2003\u3000한국어 ㄅㄆ 我想在apple工作1314151天～ ！…“x”",
    "🙂🦙 😶\u200d🌫️ <sentinel:12> IMGIMGABCZ \u00a0\u0085\u2028 a\u00a0b 𝒳𝟙 $€ ^`|~ @#_ «q»",
    "CamelCaseWords snake_case ALLCAPS 1a2b3c a1 B2\n\n\r\n  \n end  " + " " * 70 + "x\n\t\t\t",
    "it'sound 's't 'LL'Ve ''re ...!!! ?? -- (a)b[c] http://x.y/z?q=1#s\u200b\ufeffo 1,000.50 ７８",
)
"""Texts on which the ways to split text differ."""


def llama_cpp_fields(
    document: _Json,
    width: int,
    *,
    unknown_id: int | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> GgufTokenizer:
    """The tokenizer of a GGUF file for a parsed `tokenizer.json`.

    Args:
        document: BPE, on bytes or with the pieces of SentencePiece.
        width: That of the model's logits; unused tokens fill it up.
        unknown_id: The unknown token, where the file does not name it.
        note: Told, in a line, what llama.cpp does otherwise.

    Raises:
        VocabularyError: llama.cpp has no such tokenizer, or would give a text other ids.
    """
    model = document["model"]
    if model.get("type") != "BPE":
        raise VocabularyError(
            f"llama.cpp cannot be given a tokenizer of type {model.get('type')!r}, only BPE"
        )
    tokens, types = _tokens(document, width, unknown_id)
    merges = [tuple(one.split(" ", 1) if isinstance(one, str) else one) for one in model["merges"]]
    steps = [*steps_of(document.get("normalizer")), *steps_of(document.get("pre_tokenizer"))]
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
    made = (_byte_level if is_byte_level else _pieces)(document, tokens, types, merges)
    _check_same(document, made, _alike(steps, note))
    return made


def _alike(steps: list[_Json], note: Callable[[str], object]) -> list[str]:
    """The probes without that which llama.cpp is known to do otherwise."""
    texts = list(PROBES)
    if any(step["type"] == "NFC" for step in steps):
        note("llama.cpp does not bring texts into the normal form NFC, as this tokenizer does")
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    if any(step.get("prepend_scheme", "never") != "never" for step in steps):
        note(
            "llama.cpp puts a space also before texts that begin with one; this tokenizer does not"
        )
        texts = [text.lstrip() for text in texts]
    return texts


def _tokens(document: _Json, width: int, unknown_id: int | None) -> tuple[list[str], list[int]]:
    """The tokens in the order of their ids, and their types."""
    model = document["model"]
    tokens = [f"[PAD{token_id}]" for token_id in range(width)]
    types = [UNUSED] * width
    entries = [(content, token_id, NORMAL) for content, token_id in model["vocab"].items()]
    for entry in document.get("added_tokens") or []:
        of = CONTROL if entry["special"] else USER_DEFINED
        entries.append((entry["content"], entry["id"], of))
    for content, token_id, of in entries:
        if token_id >= width:
            raise VocabularyError(f"token {token_id} of a model with {width} logits")
        tokens[token_id], types[token_id] = content, of
        if model.get("byte_fallback") and _BYTE.fullmatch(content):
            types[token_id] = BYTE
        if content == model.get("unk_token") or token_id == unknown_id:
            types[token_id] = UNKNOWN
    return tokens, types


def _byte_level(
    document: _Json, tokens: list[str], types: list[int], merges: list[tuple[str, str]]
) -> GgufTokenizer:
    types = [CONTROL if one == UNKNOWN else one for one in types]  # as any special token here
    more = {"pre": _split_name(document), "merges": [" ".join(pair) for pair in merges]}
    return GgufTokenizer("gpt2", tokens, types, more)


def _split_name(document: _Json) -> str:
    """The name by which llama.cpp splits text as the tokenizer does."""
    from tokenizers import Tokenizer

    with library_errors("`tokenizers` cannot use it"):
        own = Tokenizer.from_str(json.dumps(document)).pre_tokenizer
    pieces = _split(own)
    for name in split_names(whole_words=bool(document["model"].get("ignore_merges"))):
        if _split(byte_level_split(name)) == pieces:
            return name
    raise VocabularyError("llama.cpp has no name for the way in which this tokenizer splits text")


def _split(by: "PreTokenizer") -> list[list[str]]:
    return [[piece for piece, _ in by.pre_tokenize_str(text)] for text in PROBES]


def _pieces(
    document: _Json, tokens: list[str], types: list[int], merges: list[tuple[str, str]]
) -> GgufTokenizer:
    if BYTE not in types or types.count(BYTE) != 256:
        raise VocabularyError(
            "llama.cpp needs the 256 tokens <0x00> to <0xFF> in a tokenizer that is not byte-level"
        )
    more = {"pre": "default", "scores": _scores(tokens, document["model"]["vocab"], merges)}
    (ids,) = tokenizer_json_encoder(document, inside=False)(["a"])
    more["add_space_prefix"] = tokens[ids[0]].startswith("▁")
    return GgufTokenizer("llama", tokens, types, more)


def _scores(tokens: list[str], vocab: dict[str, int], merges: list[tuple[str, str]]) -> list[float]:
    """The scores by which pieces are merged in the order of the merges.

    Raises:
        VocabularyError: no scores give that order, or other pieces would be merged, too.
    """
    products = [first + second for first, second in merges]
    runs = [product for product, _ in groupby(products)]
    pairs = {
        (token[:cut], token[cut:])
        for token in vocab
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    }
    if len(runs) != len(set(runs)) or pairs != set(merges):
        raise VocabularyError(
            "its merges are not those of a SentencePiece model, and llama.cpp has no others for a "
            "tokenizer that is not byte-level"
        )
    scores = {product: -float(rank + 1) for rank, product in enumerate(runs)}
    return [scores.get(token, 0.0) for token in tokens]


def _check_same(document: _Json, made: GgufTokenizer, texts: list[str]) -> None:
    """Refuse fields of which other ids come than of the tokenizer."""
    own = tokenizer_json_encoder(document, inside=False)(texts)
    theirs = encoder_of(made, inside=False)(texts)
    for text, one, other in zip(texts, own, theirs, strict=True):
        if not np.array_equal(one, other):
            raise VocabularyError(
                f"llama.cpp would not encode {text[:40]!r} as this tokenizer does: it cannot be "
                "written for it"
            )
