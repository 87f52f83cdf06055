"""The tokenizer behind a vocabulary: text to ids, by the library that its format belongs to.

Text is taken as text: the literals of special tokens in it are ordinary letters, and no special
token is put before or after it.
"""

import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.readers import json_file
from pm_mined.tokenizer.readers.load import format_of, read_tokens
from pm_mined.tokenizer.readers.model_folder import find_tokenizer, read_folder
from pm_mined.tokenizer.registry import TokenizerFiles, locate
from pm_mined.tokenizer.special_tokens import family_tokens, splitting
from pm_mined.vocabulary import TokenizerJson, TokenTable, Vocabulary

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]  # [tokens]

_FEW = 4  # texts
_SHORT = 2**10  # characters; handing a shorter text to another thread takes longer than encoding it

Encode = Callable[[Sequence[str]], list[Ids]]
"""Texts to their token ids; each text on its own, several at a time on all cores."""


def load_encoder(spec: str | PathLike[str], *, inside: bool = False) -> Encode:
    """The encoder of a tokenizer, found as `load_vocabulary` finds its vocabulary.

    With `inside`, each text is encoded as one that stands in the middle of a longer text: the
    space that many tokenizers put before a text is left out, and its own spaces are kept.

    Raises:
        VocabularyError: there is no such tokenizer, or it is not known how it splits text.
    """
    found = locate(spec)
    path = find_tokenizer(found.path) if found.path.is_dir() else found.path
    if path is None:
        raise VocabularyError(f"{found.path}: a folder without a tokenizer")
    try:
        return _ENCODERS[format_of(path)](path, found, inside)
    except VocabularyError as error:
        if str(error).startswith(str(path)):
            raise
        raise VocabularyError(f"{path}: {error}") from error


def parse_encoder(tokenizer_json: str, name: str, *, inside: bool = False) -> Encode:
    """The encoder of the text of a `tokenizer.json`, such as a loaded tokenizer writes.

    Raises:
        VocabularyError: it cannot be understood.
    """
    try:
        return _from_document(json.loads(tokenizer_json), tokenizer_json, inside)
    except (VocabularyError, ValueError) as error:
        raise VocabularyError(f"{name}: {error}") from error


def encoder_of(vocabulary: Vocabulary) -> Encode | None:
    """The encoder of a vocabulary's tokenizer, for text inside a longer one; None without one.

    Raises:
        VocabularyError: it is not known how it splits text.
    """
    tokenizer = vocabulary.tokenizer
    if isinstance(tokenizer, TokenizerJson):
        return parse_encoder(*tokenizer, inside=True)
    return None if tokenizer is None else load_encoder(tokenizer, inside=True)


def _from_json(path: Path, _: TokenizerFiles, inside: bool) -> Encode:
    document = json_file.parse(path)
    if json_file.is_tokenizer_json(document):
        return _from_document(document, path.read_text("utf-8"), inside)
    return _from_tekken(path, document["config"])


def _from_document(document: dict[str, Any], text: str, inside: bool) -> Encode:
    """The encoder of a `tokenizer.json`, parsed and as text."""
    from tokenizers import Tokenizer, models

    from .inside import continuing_words, keep_edges

    try:
        tokenizer = Tokenizer.from_str(json.dumps(keep_edges(document)) if inside else text)
    except Exception as error:  # what the library raises has no class of its own
        raise VocabularyError(f"`tokenizers` cannot use it: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as letters
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None  # chance, for training
    if inside and isinstance(tokenizer.model, models.WordPiece):
        return continuing_words(tokenizer)
    return by_tokenizers(tokenizer)


def by_tokenizers(tokenizer: "Tokenizer") -> Encode:
    """The encoder of a tokenizer of the library `tokenizers`."""

    def encode_batch(texts: Sequence[str]) -> list[Ids]:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in encoded]

    def encode(texts: Sequence[str]) -> list[Ids]:
        if len(texts) <= _FEW and sum(map(len, texts)) <= _SHORT:  # waking threads takes longer
            return [ids for text in texts for ids in encode_batch([text])]
        return encode_batch(texts)

    return encode


def by_sentencepiece(processor: "SentencePieceProcessor") -> Encode:
    """The encoder of a model of the library `sentencepiece`."""

    def encode(texts: Sequence[str]) -> list[Ids]:
        if len(texts) <= _FEW:  # starting threads takes longer
            encoded = [processor.encode(text) for text in texts]
        else:
            encoded = processor.encode(list(texts), num_threads=os.cpu_count())
        return [np.array(ids, np.int64) for ids in encoded]

    return encode


def _from_sentencepiece(path: Path, found: TokenizerFiles, inside: bool) -> Encode:
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor

    if found.path.is_dir():
        _refuse_added_text(path, found.path)
    try:
        model = path.read_bytes()
        if inside:
            model = _without_edges(model)
        processor = SentencePieceProcessor(model_proto=model)
    except (OSError, RuntimeError, DecodeError) as error:
        raise VocabularyError(f"`sentencepiece` cannot use it: {error}") from error
    return by_sentencepiece(processor)


def _without_edges(model: bytes) -> bytes:
    """A SentencePiece model that neither adds nor removes spaces around a text."""
    from sentencepiece import sentencepiece_model_pb2

    whole = sentencepiece_model_pb2.ModelProto.FromString(model)
    spec = whole.normalizer_spec
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = False
    # Without its test texts, which the library encodes and compares when it loads a model.
    kept = sentencepiece_model_pb2.ModelProto(
        pieces=whole.pieces, trainer_spec=whole.trainer_spec, normalizer_spec=spec
    )
    return bytes(kept.SerializeToString())


def _refuse_added_text(path: Path, folder: Path) -> None:
    """The library splits text without the tokens that a model folder adds to the file."""
    alone, table = read_tokens(path), read_folder(folder)
    size = len(alone)
    for token_id, (token, kind) in enumerate(zip(table.tokens, table.kinds, strict=True)):
        if kind == Kind.TEXT and (token_id >= size or alone.tokens[token_id] != token):
            raise VocabularyError(
                f"its folder adds {token.decode()!r} to it, which the file alone does not have; "
                "saving the tokenizer again with transformers' AutoTokenizer writes a "
                "tokenizer.json"
            )


def _from_ranks(path: Path, found: TokenizerFiles, _: bool) -> Encode:
    if found.family is None:
        raise VocabularyError(
            "a rank file does not say how text is split; give the model's tokenizer.json, or a "
            "name of `pm-mined vocab list`"
        )
    table = read_tokens(path)
    pattern, normal_form = splitting(found.family)
    added = {
        literal: token_id
        for token_id, (literal, kind) in enumerate(family_tokens(found.family), len(table))
        if kind == Kind.TEXT
    }
    encode = _tiktoken(_ranks(table, 0), pattern, added)
    if normal_form is None:
        return encode
    normalize = partial(unicodedata.normalize, normal_form)
    return lambda texts: encode([normalize(text) for text in texts])


def _from_tekken(path: Path, config: dict[str, Any]) -> Encode:
    table, first_id = read_tokens(path), int(config["default_num_special_tokens"])
    if not isinstance(config.get("pattern"), str):
        raise VocabularyError("a tekken.json that does not say how text is split (no pattern)")
    encode = _tiktoken(_ranks(table, first_id), config["pattern"], {})
    return lambda texts: [ranks + first_id for ranks in encode(texts)]


def _ranks(table: TokenTable, first_id: int) -> dict[bytes, int]:
    return {token: rank for rank, token in enumerate(table.tokens[first_id:])}


def _tiktoken(ranks: dict[bytes, int], pattern: str, added: dict[str, int]) -> Encode:
    import tiktoken

    try:
        encoding = tiktoken.Encoding(
            "ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens=added
        )
    except ValueError as error:
        raise VocabularyError(f"`tiktoken` cannot use it: {error}") from error
    literals = set(added)

    def encode_one(text: str) -> Ids:
        ids = encoding.encode(text, allowed_special=literals, disallowed_special=())
        return np.array(ids, np.int64)

    # Its own encode_batch starts new threads each time, and each compiles the pattern anew.
    pool = ThreadPoolExecutor(os.cpu_count())

    def encode(texts: Sequence[str]) -> list[Ids]:
        ahead = {i: pool.submit(encode_one, t) for i, t in enumerate(texts) if len(t) > _SHORT}
        return [ahead[i].result() if i in ahead else encode_one(t) for i, t in enumerate(texts)]

    return encode


def _from_gguf(path: Path, _: TokenizerFiles, inside: bool) -> Encode:
    from .gguf import gguf_encoder

    return gguf_encoder(path, inside=inside)


_ENCODERS: dict[str, Callable[[Path, TokenizerFiles, bool], Encode]] = {
    "gguf": _from_gguf,
    "json_file": _from_json,
    "sentencepiece": _from_sentencepiece,
    "tiktoken": _from_ranks,
}
