"""tokenizer.json: text is encoded by the library `tokenizers`."""

import json
from typing import Any

from pm_mined.errors import VocabularyError

from .inside import continuing_words, keep_edges
from .libraries import Encode, by_tokenizers


def tokenizer_json_encoder(document: dict[str, Any], *, inside: bool) -> Encode:
    """The encoder of a parsed tokenizer.json; `inside` is that of `load_encoder`.

    Raises:
        VocabularyError: the library cannot use it.
    """
    from tokenizers import Tokenizer, models

    try:
        tokenizer = Tokenizer.from_str(json.dumps(keep_edges(document) if inside else document))
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
