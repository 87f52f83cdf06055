"""Rank files and tekken.json: text is encoded by the library `tiktoken`."""

import unicodedata
from functools import partial
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.readers import tekken
from pm_mined.tokenizer.special_tokens import family_tokens, splitting
from pm_mined.vocabulary import TokenTable

from .libraries import Encode, by_tiktoken


def ranks_encoder(table: TokenTable, family: str | None) -> Encode:
    """The encoder of a rank file, whose special tokens and splitting are those of `family`.

    Raises:
        VocabularyError: it has no family, or `tiktoken` cannot use it.
    """
    if family is None:
        raise VocabularyError(
            "a rank file does not say how text is split; give the model's tokenizer.json, or a "
            "name of `pm-mined vocab list`"
        )
    pattern, normal_form = splitting(family)
    added = {
        literal: token_id
        for token_id, (literal, kind) in enumerate(family_tokens(family), len(table))
        if kind == Kind.TEXT
    }
    encode = _tiktoken(table.tokens, pattern, added)
    if normal_form is None:
        return encode
    normalize = partial(unicodedata.normalize, normal_form)
    return lambda texts: encode([normalize(text) for text in texts])


def tekken_encoder(document: dict[str, Any]) -> Encode:
    """The encoder of a parsed tekken.json.

    Raises:
        VocabularyError: it does not say how text is split, or is damaged.
    """
    table, config = tekken.read_document(document), document["config"]
    first_id = int(config["default_num_special_tokens"])
    if not isinstance(config.get("pattern"), str):
        raise VocabularyError("a tekken.json that does not say how text is split (no pattern)")
    encode = _tiktoken(table.tokens[first_id:], config["pattern"], {})
    return lambda texts: [ranks + first_id for ranks in encode(texts)]


def _tiktoken(tokens: list[bytes], pattern: str, added: dict[str, int]) -> Encode:
    """The encoder of ranked tokens, and of text tokens that were added to them."""
    import tiktoken

    ranks = {token: rank for rank, token in enumerate(tokens)}
    with library_errors("`tiktoken` cannot use it"):
        encoding = tiktoken.Encoding(
            "ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens=added
        )
    return by_tiktoken(encoding)
