"""GGUF tokenizers that merge pairs: byte-level BPE (model `gpt2`), and Gemma 4's on text."""

from typing import TYPE_CHECKING

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.readers.gguf import GgufTokenizer

from .libraries import Encode, by_tokenizers
from .llama_cpp import byte_level_split, keeps_whole_words, user_defined

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def byte_level_encoder(tokenizer: GgufTokenizer, _: bool) -> Encode:
    """The encoder of byte-level BPE.

    Raises:
        VocabularyError: the file does not say how text is split, or in a way that is not known.
    """
    name = tokenizer.more.get("pre")
    if not isinstance(name, str):
        raise VocabularyError(
            "a GGUF file that does not say how text is split (no tokenizer.ggml.pre); convert the "
            "model again, or give its tokenizer.json"
        )
    split = byte_level_split(name)
    made = _bpe(tokenizer, ignore_merges=keeps_whole_words(name))
    made.pre_tokenizer = split
    return by_tokenizers(made)


def gemma4_encoder(tokenizer: GgufTokenizer, _: bool) -> Encode:
    """The encoder of BPE on text, a line at a time, its spaces written as `▁`.

    Raises:
        VocabularyError: the file has no merges, or the library cannot use them.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    made = _bpe(tokenizer, byte_fallback=True)
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
    return by_tokenizers(made)


def _bpe(tokenizer: GgufTokenizer, **options: bool) -> "Tokenizer":
    """The model with its merges, which splits no text yet."""
    from tokenizers import Tokenizer, models

    vocab = {token: token_id for token_id, token in enumerate(tokenizer.tokens)}
    merges = dict.fromkeys(map(_pair, tokenizer.entries("merges", str)))  # the first counts
    with library_errors("`tokenizers` cannot use it"):
        made = Tokenizer(models.BPE(vocab, list(merges), **options))
    add_user_defined(made, tokenizer)
    return made


def add_user_defined(made: "Tokenizer", tokenizer: GgufTokenizer) -> None:
    """Add the tokens that are found in a text before it is split."""
    from tokenizers import AddedToken

    made.add_tokens([AddedToken(token, normalized=False) for token in user_defined(tokenizer)])


def _pair(merge: str) -> tuple[str, str]:
    """The two parts of a merge, of which the first may begin with a space."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise VocabularyError(f"a damaged GGUF file: {merge[:40]!r} is no merge of two tokens")
    return merge[:cut], merge[cut + 1 :]
