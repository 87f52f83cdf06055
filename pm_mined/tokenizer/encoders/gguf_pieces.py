"""GGUF tokenizers of pieces: SentencePiece BPE (model `llama`) and WordPiece (model `bert`)."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.readers.gguf import GgufTokenizer
from pm_mined.tokenizer.readers.sentencepiece import BYTE, CONTROL, UNKNOWN, USER_DEFINED

from .gguf_bpe import add_user_defined
from .inside import continuing_words
from .libraries import Encode, Ids, by_sentencepiece, by_tokenizers
from .llama_cpp import user_defined
from .serialized_pieces import serialize_bpe, serialize_pieces

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

    unknown = _unknown_id(tokenizer)
    add_space = tokenizer.more.get("add_space_prefix") is not False
    rest = serialize_bpe(
        unknown_id=unknown,
        byte_fallback=BYTE in tokenizer.types,
        add_dummy_prefix=add_space and not inside,
    )
    model = _pieces(tokenizer, unknown) + rest
    with library_errors("`sentencepiece` cannot use it"):
        processor = SentencePieceProcessor(model_proto=model)
    return _between(user_defined(tokenizer), by_sentencepiece(processor))


def _pieces(tokenizer: GgufTokenizer, unknown: int) -> bytes:
    """A serialized model of the pieces alone, none of which is user-defined.

    One is of type unknown: the library takes no other, and padding in GGUF is of that type, too.
    """
    scores = tokenizer.entries("scores", float)
    if len(scores) != len(tokenizer.tokens):
        count = len(tokenizer.tokens)
        raise VocabularyError(f"a damaged GGUF file: {len(scores)} scores of {count} tokens")
    # The library takes no empty one.
    pieces = [one.encode() or b"[EMPTY_%d]" % i for i, one in enumerate(tokenizer.tokens, 1)]
    types = np.array(tokenizer.types)
    types[(types == UNKNOWN) | (types == USER_DEFINED)] = CONTROL
    types[unknown] = UNKNOWN
    return serialize_pieces(pieces, scores, types)


def _between(tokens: dict[str, int], encode: Encode) -> Encode:
    """An encoder that finds tokens in a text first, and begins anew after each, as llama.cpp."""
    if not tokens:
        return encode
    longest_first = sorted(tokens, key=len, reverse=True)
    find = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
    found = {token: np.array([token_id], np.int64) for token, token_id in tokens.items()}

    def encode_parts(texts: Sequence[str]) -> list[Ids]:
        wholes = [find.split(text) for text in texts]  # text, token, text, ..., text
        others = iter(encode([part for whole in wholes for part in whole[::2]]))
        return [
            np.concatenate([found[part] if i % 2 else next(others) for i, part in enumerate(whole)])
            for whole in wholes
        ]

    return encode_parts


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
    bert = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    # White space in Unicode; the library takes it for a control character, and removes it.
    plain = normalizers.Sequence([normalizers.Replace("\u0085", " "), bert])
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
