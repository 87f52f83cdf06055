"""The tokenizer in a GGUF file, put together for a library that does what llama.cpp does."""

from collections.abc import Callable
from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.readers.gguf import GgufTokenizer, carried_document, read_tokenizer

from .gguf_bpe import byte_level_encoder, gemma4_encoder
from .gguf_pieces import bpe_encoder, word_piece_encoder
from .libraries import Encode
from .tokenizer_json import tokenizer_json_encoder

_ENCODERS: dict[str, Callable[[GgufTokenizer, bool], Encode]] = {
    "llama": bpe_encoder,
    "bert": word_piece_encoder,
    "gpt2": byte_level_encoder,
    "gemma4": gemma4_encoder,
}


def gguf_encoder(path: Path, *, inside: bool) -> Encode:
    """The encoder of a GGUF file; `inside` is that of `load_encoder`.

    Raises:
        VocabularyError: another tokenizer, or one whose way to split text is not known.
    """
    tokenizer = read_tokenizer(path)
    document = carried_document(tokenizer)
    if document is not None:
        return tokenizer_json_encoder(document, inside=inside)
    return encoder_of(tokenizer, inside=inside)


def encoder_of(tokenizer: GgufTokenizer, *, inside: bool) -> Encode:
    """The encoder of a file's fields, as llama.cpp reads them.

    Raises:
        VocabularyError: as `gguf_encoder`.
    """
    if tokenizer.model not in _ENCODERS:
        model, known = tokenizer.model[:40], ", ".join(_ENCODERS)
        raise VocabularyError(
            f"text cannot be encoded by a GGUF tokenizer of model {model!r} (only by {known}); "
            "give the model's tokenizer.json"
        )
    return _ENCODERS[tokenizer.model](tokenizer, inside)
