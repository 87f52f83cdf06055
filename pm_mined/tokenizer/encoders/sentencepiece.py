"""SentencePiece models: text is encoded by the library `sentencepiece`."""

from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.readers.model_folder import put_added_tokens
from pm_mined.tokenizer.readers.sentencepiece import read

from .libraries import Encode, by_sentencepiece


def sentencepiece_encoder(model: bytes, *, inside: bool) -> Encode:
    """The encoder of a serialized model; `inside` is that of `load_encoder`.

    Raises:
        VocabularyError: the library cannot use the model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor

    try:
        model = _without_edges(model) if inside else model
        processor = SentencePieceProcessor(model_proto=model)
    except (RuntimeError, DecodeError) as error:
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


def refuse_added_text(path: Path, folder: Path) -> None:
    """Refuse a model folder that adds text tokens to its model: the library would not find them.

    Raises:
        VocabularyError: it adds some.
    """
    alone, table = read(path), read(path)
    put_added_tokens(table, folder)
    size = len(alone)
    for token_id, (token, kind) in enumerate(zip(table.tokens, table.kinds, strict=True)):
        if kind == Kind.TEXT and (token_id >= size or alone.tokens[token_id] != token):
            raise VocabularyError(
                f"its folder adds {token.decode()!r} to it, which the file alone does not have; "
                "saving the tokenizer again with transformers' AutoTokenizer writes a "
                "tokenizer.json"
            )
