"""SentencePiece models: text is encoded by the library `sentencepiece`."""

from collections.abc import Mapping
from typing import Any

from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.readers.folder_config import AddedToken
from pm_mined.tokenizer.readers.growth import growth_of_charsmap
from pm_mined.tokenizer.readers.sentencepiece import UNUSED, USER_DEFINED

from .bounded import bounded
from .libraries import Encode, by_sentencepiece


def sentencepiece_encoder(model: bytes, *, inside: bool) -> Encode:
    """The encoder of a serialized model; `inside` is that of `load_encoder`.

    Raises:
        VocabularyError: the library cannot use the model.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    with library_errors("`sentencepiece` cannot use it"):
        parsed = sentencepiece_model_pb2.ModelProto.FromString(model)
        growth = growth_of_charsmap(parsed.normalizer_spec.precompiled_charsmap)
        model = _without_edges(parsed) if inside else model
        processor = SentencePieceProcessor(model_proto=model)
    return bounded(by_sentencepiece(processor), growth)


def _without_edges(whole: Any) -> bytes:
    """A SentencePiece model that neither adds nor removes spaces around a text."""
    from sentencepiece import sentencepiece_model_pb2

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
