"""GGUF tokenizers of pieces: SentencePiece BPE (model `llama`) and WordPiece (model `bert`)."""

from typing import TYPE_CHECKING

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.library_errors import library_errors
from pm_mined.tokenizer.readers.gguf import GgufTokenizer
from pm_mined.tokenizer.readers.sentencepiece import BYTE, CONTROL, UNKNOWN, USER_DEFINED

from .gguf_bpe import add_user_defined
from .inside import continuing_words
from .libraries import Encode, by_sentencepiece, by_tokenizers
from .llama_cpp import user_defined

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer

_LONGEST_WORD = 2**20  # characters; llama.cpp has no bound
_BERT_UNKNOWN = 100  # the id where a file names none
_NO_TEXT = "\U0010ffff"  # a code point that never is a character
_FIRST_SYLLABLE, _FIRST_JAMO, _SYLLABLES = 0xAC00, 0x1100, 588  # for each of 19 consonants


def bpe_encoder(tokenizer: GgufTokenizer, inside: bool) -> Encode:
    """The encoder of SentencePiece BPE; a space is put before a text that is not `inside` another.

    Raises:
        VocabularyError: the library cannot use it.
    """
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    unknown = _unknown_id(tokenizer)
    types = _types(tokenizer)
    types[unknown] = UNKNOWN
    scores = tokenizer.entries("scores", float)
    if len(scores) != len(types):
        raise VocabularyError(f"a damaged GGUF file: not one score for {len(types)} tokens")
    proto = ModelProto()
    for piece, of, score in zip(tokenizer.tokens, types, scores, strict=True):
        added = proto.pieces.add()
        # GGUF has the spaces of user-defined pieces as spaces, the library as in all others.
        added.piece = piece.replace(" ", "▁") if of == USER_DEFINED else piece
        added.type = of
        added.score = score
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = BYTE in types
    proto.trainer_spec.unk_id = unknown
    add_space = tokenizer.more.get("add_space_prefix") is not False
    proto.normalizer_spec.add_dummy_prefix = add_space and not inside
    proto.normalizer_spec.remove_extra_whitespaces = False
    with library_errors("`sentencepiece` cannot use it"):
        return by_sentencepiece(SentencePieceProcessor(model_proto=proto.SerializeToString()))


def _types(tokenizer: GgufTokenizer) -> list[int]:
    """The types of the pieces for the library, which finds all that is user-defined.

    It takes one piece of type unknown; in GGUF, padding is of that type, too.
    """
    found = set(user_defined(tokenizer))
    of_types = zip(tokenizer.tokens, tokenizer.types, strict=True)
    return [
        CONTROL if of == UNKNOWN or (of == USER_DEFINED and piece not in found) else of
        for piece, of in of_types
    ]


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


def word_piece_encoder(tokenizer: GgufTokenizer, inside: bool) -> Encode:
    """The encoder of WordPiece: `▁` begins a word, where Hugging Face's `##` goes on with one.

    Raises:
        VocabularyError: the library cannot use it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    unknown_id = tokenizer.more.get("unknown_token_id", _BERT_UNKNOWN)
    if type(unknown_id) is not int or not 0 <= unknown_id < len(tokenizer.tokens):
        raise VocabularyError("a GGUF tokenizer of model 'bert' without an unknown token")
    unknown = _NO_TEXT + tokenizer.tokens[unknown_id]
    vocab = {
        token[1:] if token.startswith("▁") else f"##{token}": token_id
        for token_id, token in enumerate(tokenizer.tokens)
    }
    with library_errors("`tokenizers` cannot use it"):
        model = models.WordPiece(
            vocab | {unknown: unknown_id}, unk_token=unknown, max_input_chars_per_word=_LONGEST_WORD
        )
        made = Tokenizer(model)
        made.normalizer = _bert_normalizer(tokenizer)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        add_user_defined(made, tokenizer)
    return continuing_words(made) if inside else by_tokenizers(made)


def _bert_normalizer(tokenizer: GgufTokenizer) -> "Normalizer":
    """BERT's, but where accents are removed, only the first of the code points that make one stays.

    So does llama.cpp, and leaves of a Korean syllable its first consonant.
    """
    from tokenizers import Regex, normalizers

    lowercase = tokenizer.more.get("normalizer.lowercase") is not False
    plain = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    if not tokenizer.more.get("normalizer.strip_accents", lowercase):
        return plain
    syllables = range(_FIRST_SYLLABLE, _FIRST_SYLLABLE + 19 * _SYLLABLES, _SYLLABLES)
    consonants = [
        normalizers.Replace(
            Regex(f"[{chr(first)}-{chr(first + _SYLLABLES - 1)}]"), chr(_FIRST_JAMO + number)
        )
        for number, first in enumerate(syllables)
    ]
    marks = normalizers.Replace(Regex(r"\p{M}"), "")
    return normalizers.Sequence([*consonants, normalizers.NFD(), marks, plain])
