"""tokenizer.json: text is encoded by the library `tokenizers`."""

import json
from typing import Any

from pm_mined.tokenizer.library_errors import library_errors
from pm_mined.tokenizer.readers.growth import growth_of

from .bounded import bounded
from .inside import continuing_words, keep_edges
from .libraries import Encode, by_tokenizers


def tokenizer_json_encoder(document: dict[str, Any], *, inside: bool) -> Encode:
    """The encoder of a parsed tokenizer.json; `inside` is that of `load_encoder`.

    Raises:
        VocabularyError: the library cannot use it.
    """
    from tokenizers import Tokenizer, models

    document = keep_edges(document) if inside else document
    with library_errors("`tokenizers` cannot use it"):
        tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as letters
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None  # chance, for training
    if inside and isinstance(tokenizer.model, models.WordPiece):
        encode = continuing_words(tokenizer)
    else:
        encode = by_tokenizers(tokenizer)
    normalizer = document.get("normalizer")
    return bounded(encode, growth_of([normalizer] if normalizer else []))
