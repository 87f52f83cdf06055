"""tokenizer.json: text is encoded by the library `tokenizers`."""

import json
from typing import TYPE_CHECKING, Any

from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.readers.growth import growth_of

from .bounded import bounded
from .inside import continuing_words, keep_edges
from .libraries import Encode, by_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenizer_json_encoder(document: dict[str, Any], *, inside: bool) -> Encode:
    """The encoder of a parsed tokenizer.json; `inside` is that of `load_encoder`.

    Raises:
        VocabularyError: the library cannot use it.
    """
    from tokenizers import Tokenizer

    with library_errors("`tokenizers` cannot use it"):
        document = keep_edges(document) if inside else document
        tokenizer = Tokenizer.from_str(json.dumps(document))
        return bounded(_encoder(tokenizer, inside=inside), _growth(document))


def _encoder(tokenizer: "Tokenizer", *, inside: bool) -> Encode:
    from tokenizers import models

    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as letters
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None  # chance, for training
    if inside and isinstance(tokenizer.model, models.WordPiece):
        return continuing_words(tokenizer)
    return by_tokenizers(tokenizer)


def _growth(document: dict[str, Any]) -> int:
    normalizer = document.get("normalizer")
    return growth_of([normalizer] if normalizer else [])
