"""SentencePiece models: text is encoded by the library `sentencepiece`."""

from collections.abc import Mapping

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.readers.folder_config import AddedToken
from pm_mined.tokenizer.readers.sentencepiece import UNUSED, USER_DEFINED

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


def with_added_text(model: bytes, added: Mapping[int, AddedToken]) -> bytes:
    """A SentencePiece model that finds added tokens in text, save special ones."""
    from sentencepiece import sentencepiece_model_pb2

    text = {i: token.literal for i, token in sorted(added.items()) if not token.special}
    if not text:
        return model
    whole = sentencepiece_model_pb2.ModelProto.FromString(model)
    for token_id in range(len(whole.pieces), max(text) + 1):
        whole.pieces.add(piece=f"<gap {token_id}>", type=UNUSED)
    for token_id, literal in text.items():
        whole.pieces[token_id].piece = literal.replace(" ", "▁")
        whole.pieces[token_id].type = USER_DEFINED
    return bytes(whole.SerializeToString())
