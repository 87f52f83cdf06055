"""The tokenizer behind a vocabulary: text to ids, by the library that its format belongs to.

Text is taken as text: the literals of special tokens in it are ordinary letters, and no special
token is put before or after it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.locate import TokenizerFiles, locate
from pm_mined.tokenizer.objects import Spec, save_tokenizer
from pm_mined.tokenizer.readers import json_file, sentencepiece, tiktoken, word_piece
from pm_mined.tokenizer.readers.added_tokens import put_renumbered_tokens
from pm_mined.tokenizer.readers.folder_config import read_config
from pm_mined.tokenizer.readers.load import format_of
from pm_mined.tokenizer.readers.model_folder import folder_config, folder_document
from pm_mined.vocabulary import Vocabulary

from .gguf import gguf_encoder
from .libraries import Encode, Ids
from .ranks import ranks_encoder, tekken_encoder
from .sentencepiece import sentencepiece_encoder, with_added_text
from .tokenizer_json import tokenizer_json_encoder


def load_encoder(spec: Spec, *, inside: bool = False) -> Encode:
    """The encoder of a tokenizer, which is found or given as for `load_vocabulary`.

    An encoder turns a list of texts into a list of their token ids, int64 [tokens] each. With
    `inside`, each text is encoded as one that stands in the middle of a longer text: the space
    that many tokenizers put before a text is left out, and its own spaces are kept.

    Raises:
        VocabularyError: there is no such tokenizer, or it is not known how it splits text.

    >>> encode = load_encoder("llama3")  # doctest: +SKIP
    >>> encode(["Hello world", "!"])  # doctest: +SKIP
    [array([9906, 1917]), array([0])]
    """
    if not isinstance(spec, str | PathLike):
        saved = save_tokenizer(spec)
        with _errors_begin_with(saved.name):
            return _guarded(_in_memory(saved.content, inside), saved.name)
    found = locate(spec)
    document = None
    if found.folder is not None:
        document = folder_document(found.file, folder_config(found.folder))
    make = _ENCODERS[format_of(found.file)]
    with _errors_begin_with(found.file):
        if document is not None:
            return _guarded(tokenizer_json_encoder(document, inside=inside), found.file)
        return _guarded(make(found, inside), found.file)


def _guarded(encode: Encode, tokenizer: str | Path) -> Encode:
    """An encoder whose errors are one line that names the tokenizer."""

    def encode_guarded(texts: Sequence[str]) -> list[Ids]:
        with _errors_begin_with(tokenizer), library_errors("its library cannot encode a text"):
            return encode(texts)

    return encode_guarded


def encoder_of(vocabulary: Vocabulary) -> Encode | None:
    """The encoder of a vocabulary's tokenizer, for text inside a longer one; None without one.

    Raises:
        VocabularyError: it is not known how it splits text.
    """
    return None if vocabulary.tokenizer is None else load_encoder(vocabulary.tokenizer, inside=True)


@contextmanager
def _errors_begin_with(tokenizer: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VocabularyError(f"{tokenizer}: cannot read: {error.strerror}") from error
    except VocabularyError as error:
        raise VocabularyError(f"{tokenizer}: {error}") from error


def _in_memory(content: str | bytes, inside: bool) -> Encode:
    if isinstance(content, bytes):
        return sentencepiece_encoder(content, inside=inside)
    return tokenizer_json_encoder(json.loads(content), inside=inside)


def _from_gguf(found: TokenizerFiles, inside: bool) -> Encode:
    return gguf_encoder(found.file, inside=inside)


def _from_json(found: TokenizerFiles, inside: bool) -> Encode:
    document = json_file.parse(found.file)
    if not json_file.is_tokenizer_json(document):
        return tekken_encoder(document)
    return tokenizer_json_encoder(document, inside=inside)


def _from_word_piece(found: TokenizerFiles, inside: bool) -> Encode:
    return tokenizer_json_encoder(word_piece.read_alone(found.file), inside=inside)


def _from_sentencepiece(found: TokenizerFiles, inside: bool) -> Encode:
    model = found.file.read_bytes()
    if found.folder is not None:
        table = sentencepiece.read_model(model)
        added = put_renumbered_tokens(table, read_config(found.folder))
        model = with_added_text(model, added)
    return sentencepiece_encoder(model, inside=inside)


def _from_ranks(found: TokenizerFiles, _: bool) -> Encode:
    return ranks_encoder(tiktoken.read(found.file), found.family)


_ENCODERS: dict[str, Callable[[TokenizerFiles, bool], Encode]] = {
    "gguf": _from_gguf,
    "json_file": _from_json,
    "word_piece": _from_word_piece,
    "sentencepiece": _from_sentencepiece,
    "tiktoken": _from_ranks,
}
