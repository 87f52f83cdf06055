"""GGUF tokenizers of pieces: SentencePiece BPE (`llama`) and Unigram (`t5`), WordPiece (`bert`)."""

from typing import TYPE_CHECKING

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.readers.gguf import GgufTokenizer
from pm_mined.tokenizer.readers.sentencepiece import BYTE, CONTROL, UNKNOWN, USER_DEFINED

from .inside import continuing_words
from .libraries import Encode, by_sentencepiece, by_tokenizers

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

_LONGEST_WORD = 2**20  # characters; llama.cpp has no bound
_BERT_UNKNOWN = 100  # the id where a file names none


def bpe_encoder(tokenizer: GgufTokenizer, inside: bool) -> Encode:
    """The encoder of SentencePiece BPE; a space is put before a text that is not `inside` another.

    Raises:
        VocabularyError: the library cannot use it.
    """
    proto = _model_proto(tokenizer)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    add_space = tokenizer.more.get("add_space_prefix") is not False
    proto.normalizer_spec.add_dummy_prefix = add_space and not inside
    proto.normalizer_spec.remove_extra_whitespaces = False
    return _by_library(proto)


def unigram_encoder(tokenizer: GgufTokenizer, inside: bool) -> Encode:
    """The encoder of SentencePiece Unigram, with the normal form that the file has.

    Raises:
        VocabularyError: the library cannot use it.
    """
    proto, more = _model_proto(tokenizer), tokenizer.more
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    normalizer = proto.normalizer_spec
    normalizer.add_dummy_prefix = more.get("add_space_prefix") is True and not inside
    normalizer.remove_extra_whitespaces = (
        more.get("remove_extra_whitespaces") is True and not inside
    )
    if "precompiled_charsmap" in more:
        charsmap = tokenizer.entries("precompiled_charsmap", int)
        normalizer.precompiled_charsmap = bytes(number % 256 for number in charsmap)
    return _by_library(proto)


def _model_proto(tokenizer: GgufTokenizer) -> "ModelProto":
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    unknown = _unknown_id(tokenizer)
    # The library takes one piece of type unknown; in GGUF, padding is of that type, too.
    types = [CONTROL if of == UNKNOWN else of for of in tokenizer.types]
    types[unknown] = UNKNOWN
    scores = tokenizer.entries("scores", float)
    if len(scores) != len(types):
        raise VocabularyError(f"a damaged GGUF file: not one score for {len(types)} tokens")
    proto = ModelProto()
    for piece, of, score in zip(tokenizer.tokens, types, scores, strict=True):
        # GGUF has the spaces of user-defined pieces as spaces, the library as in all others.
        written = piece.replace(" ", "▁") if of == USER_DEFINED else piece
        proto.pieces.add(piece=written, type=of, score=score)
    proto.trainer_spec.byte_fallback = BYTE in types
    proto.trainer_spec.unk_id = unknown
    return proto


def _unknown_id(tokenizer: GgufTokenizer) -> int:
    """The id of the unknown token: the one that the file names, else the first of that type.

    Raises:
        VocabularyError: there is none.
    """
    named, types = tokenizer.more.get("unknown_token_id"), tokenizer.types
    if type(named) is int and 0 <= named < len(types) and types[named] in (UNKNOWN, CONTROL):
        return named
    if UNKNOWN not in types:
        raise VocabularyError("a GGUF tokenizer without an unknown token, which the library needs")
    return types.index(UNKNOWN)


def _by_library(proto: "ModelProto") -> Encode:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise VocabularyError(f"`sentencepiece` cannot use it: {error}") from error
    return by_sentencepiece(processor)


def word_piece_encoder(tokenizer: GgufTokenizer, inside: bool) -> Encode:
    """The encoder of WordPiece: `▁` begins a word, as in Hugging Face's files `##` goes on with it.

    Raises:
        VocabularyError: the library cannot use it.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocab = {
        token[1:] if token.startswith("▁") else f"##{token}": token_id
        for token_id, token in enumerate(tokenizer.tokens)
    }
    unknown_id = tokenizer.more.get("unknown_token_id", _BERT_UNKNOWN)
    if type(unknown_id) is not int or not 0 <= unknown_id < len(tokenizer.tokens):
        raise VocabularyError("a GGUF tokenizer of model 'bert' without an unknown token")
    unknown = tokenizer.tokens[unknown_id]
    lowercase = tokenizer.more.get("normalizer.lowercase", True)
    made = Tokenizer(
        models.WordPiece(
            vocab | {unknown: unknown_id},
            unk_token=unknown,
            max_input_chars_per_word=_LONGEST_WORD,
        )
    )
    made.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=tokenizer.more.get("normalizer.strip_accents", lowercase),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return continuing_words(made) if inside else by_tokenizers(made)
