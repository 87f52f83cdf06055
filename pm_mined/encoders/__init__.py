"""The tokenizer behind a vocabulary: text to ids, by the library that its format belongs to.

Text is taken as text: the literals of special tokens in it are ordinary letters, and nothing is
put before or after it.
"""

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
from pm_mined.readers import format_of, json_file, read_tokens
from pm_mined.readers.model_folder import find_tokenizer, read_folder
from pm_mined.registry import TokenizerFiles, locate
from pm_mined.special_tokens import family_tokens, splitting
from pm_mined.vocabulary import TokenTable

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]  # [tokens]

Encode = Callable[[Sequence[str]], list[Ids]]
"""Texts to their token ids; each text on its own, several at a time on all cores."""


def load_encoder(spec: str | PathLike[str]) -> Encode:
    """The encoder of a tokenizer, found as `load_vocabulary` finds its vocabulary.

    Raises:
        VocabularyError: there is no such tokenizer, or it is not known how it splits text.
    """
    found = locate(spec)
    path = find_tokenizer(found.path) if found.path.is_dir() else found.path
    if path is None:
        raise VocabularyError(f"{found.path}: a folder without a tokenizer")
    try:
        return _ENCODERS[format_of(path)](path, found)
    except VocabularyError as error:
        if str(error).startswith(str(path)):
            raise
        raise VocabularyError(f"{path}: {error}") from error


def _from_json(path: Path, _: TokenizerFiles) -> Encode:
    document = json_file.parse(path)
    if not json_file.is_tokenizer_json(document):
        return _from_tekken(path, document["config"])
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises has no class of its own
        raise VocabularyError(f"`tokenizers` cannot use it: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as letters

    return by_tokenizers(tokenizer)


def by_tokenizers(tokenizer: "Tokenizer") -> Encode:
    """The encoder of a tokenizer of the library `tokenizers`."""

    def encode(texts: Sequence[str]) -> list[Ids]:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in encoded]

    return encode


def by_sentencepiece(processor: "SentencePieceProcessor") -> Encode:
    """The encoder of a model of the library `sentencepiece`."""

    def encode(texts: Sequence[str]) -> list[Ids]:
        encoded = processor.encode(list(texts), num_threads=os.cpu_count())
        return [np.array(ids, np.int64) for ids in encoded]

    return encode


def _from_sentencepiece(path: Path, found: TokenizerFiles) -> Encode:
    from sentencepiece import SentencePieceProcessor

    if found.path.is_dir():
        _refuse_added_text(path, found.path)
    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise VocabularyError(f"`sentencepiece` cannot use it: {error}") from error
    return by_sentencepiece(processor)


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


def _from_ranks(path: Path, found: TokenizerFiles) -> Encode:
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
        ids = encoding.encode_to_numpy(text, allowed_special=literals, disallowed_special=())
        return ids.astype(np.int64)

    # Its own encode_batch starts new threads each time, and each compiles the pattern anew.
    pool = ThreadPoolExecutor(os.cpu_count())
    return lambda texts: list(pool.map(encode_one, texts))


def _from_gguf(path: Path, _: TokenizerFiles) -> Encode:
    from .gguf import gguf_encoder

    return gguf_encoder(path)


_ENCODERS: dict[str, Callable[[Path, TokenizerFiles], Encode]] = {
    "gguf": _from_gguf,
    "json_file": _from_json,
    "sentencepiece": _from_sentencepiece,
    "tiktoken": _from_ranks,
}
