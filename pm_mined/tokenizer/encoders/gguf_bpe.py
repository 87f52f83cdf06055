"""GGUF tokenizers that merge pairs: byte-level BPE (model `gpt2`), and Gemma 4's on text."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.library_errors import library_errors
from pm_mined.tokenizer.readers.gguf import GgufTokenizer
from pm_mined.tokenizer.readers.sentencepiece import USER_DEFINED

from .libraries import Encode, by_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer


@cache
def _splits() -> dict[str, dict[str, Any]]:
    """Name of a pre-tokenizer -> its entry in `data/gguf_splits.toml`."""
    text = files("pm_mined").joinpath("data/gguf_splits.toml").read_text("utf-8")
    return {name: entry for entry in tomllib.loads(text)["splits"] for name in entry["names"]}


def byte_level_encoder(tokenizer: GgufTokenizer, _: bool) -> Encode:
    """The encoder of byte-level BPE.

    Raises:
        VocabularyError: the file does not say how text is split, or in a way that is not known.
    """
    name = tokenizer.more.get("pre")
    if name is None:
        raise VocabularyError(
            "a GGUF file that does not say how text is split (no tokenizer.ggml.pre); convert the "
            "model again, or give its tokenizer.json"
        )
    if name not in _splits():
        raise VocabularyError(
            f"how a GGUF file splits text by {name!r} is not known; give the model's tokenizer.json"
        )
    made = _bpe(tokenizer, ignore_merges=name in _splits()[name].get("whole_words", []))
    made.pre_tokenizer = byte_level_split(name)
    return by_tokenizers(made)


def byte_level_split(name: str) -> "PreTokenizer":
    """The steps that split text as `data/gguf_splits.toml` says for a name, and write its bytes."""
    from tokenizers import Regex, pre_tokenizers

    patterns = _splits()[name]["patterns"]
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, letters])


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

    of_types = zip(tokenizer.tokens, tokenizer.types, strict=True)
    added = [token for token, of in of_types if of == USER_DEFINED and token]
    made.add_tokens([AddedToken(token, normalized=False) for token in added])


def _pair(merge: str) -> tuple[str, str]:
    """The two parts of a merge, of which the first may begin with a space."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise VocabularyError(f"a damaged GGUF file: {merge[:40]!r} is no merge of two tokens")
    return merge[:cut], merge[cut + 1 :]
