"""The tokenizer behind a vocabulary: text to ids, by the library that its format belongs to.

Text is taken as text: the literals of special tokens in it are ordinary letters, and no special
token is put before or after it.
"""

import json
from collections.abc import Callable
from os import PathLike

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.locate import TokenizerFiles, locate
from pm_mined.tokenizer.readers import json_file, tiktoken
from pm_mined.tokenizer.readers.load import format_of
from pm_mined.vocabulary import TokenizerJson, Vocabulary

from .gguf import gguf_encoder
from .libraries import Encode
from .ranks import ranks_encoder, tekken_encoder
from .sentencepiece import refuse_added_text, sentencepiece_encoder
from .tokenizer_json import tokenizer_json_encoder


def load_encoder(spec: str | PathLike[str], *, inside: bool = False) -> Encode:
    """The encoder of a tokenizer, found as `load_vocabulary` finds its vocabulary.

    With `inside`, each text is encoded as one that stands in the middle of a longer text: the
    space that many tokenizers put before a text is left out, and its own spaces are kept.

    Raises:
        VocabularyError: there is no such tokenizer, or it is not known how it splits text.
    """
    found = locate(spec)
    make = _ENCODERS[format_of(found.file)]
    try:
        return make(found, inside)
    except OSError as error:
        raise VocabularyError(f"{found.file}: cannot read: {error.strerror}") from error
    except VocabularyError as error:
        raise VocabularyError(f"{found.file}: {error}") from error


def parse_encoder(tokenizer_json: str, name: str, *, inside: bool = False) -> Encode:
    """The encoder of the text of a `tokenizer.json`, such as a loaded tokenizer writes.

    Raises:
        VocabularyError: it cannot be understood.
    """
    try:
        document = json.loads(tokenizer_json)
        return tokenizer_json_encoder(document, tokenizer_json, inside=inside)
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


def _from_gguf(found: TokenizerFiles, inside: bool) -> Encode:
    return gguf_encoder(found.file, inside=inside)


def _from_json(found: TokenizerFiles, inside: bool) -> Encode:
    document = json_file.parse(found.file)
    if json_file.is_tokenizer_json(document):
        return tokenizer_json_encoder(document, found.file.read_text("utf-8"), inside=inside)
    return tekken_encoder(document)


def _from_sentencepiece(found: TokenizerFiles, inside: bool) -> Encode:
    if found.folder is not None:
        refuse_added_text(found.file, found.folder)
    return sentencepiece_encoder(found.file.read_bytes(), inside=inside)


def _from_ranks(found: TokenizerFiles, _: bool) -> Encode:
    return ranks_encoder(tiktoken.read(found.file), found.family)


_ENCODERS: dict[str, Callable[[TokenizerFiles, bool], Encode]] = {
    "gguf": _from_gguf,
    "json_file": _from_json,
    "sentencepiece": _from_sentencepiece,
    "tiktoken": _from_ranks,
}
