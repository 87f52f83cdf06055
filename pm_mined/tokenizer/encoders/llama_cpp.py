"""The part of a tokenizer that llama.cpp knows and no GGUF file says: `data/llama_cpp.toml`."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.readers.gguf import GgufTokenizer
from pm_mined.tokenizer.readers.sentencepiece import USER_DEFINED

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("pm_mined").joinpath("data/llama_cpp.toml").read_text("utf-8"))


def _entry(name: str) -> dict[str, Any]:
    """The entry of a pre-tokenizer."""
    for entry in _table()["splits"]:
        if name in entry["names"]:
            return dict(entry)
    raise VocabularyError(
        f"how a GGUF file splits text by {name[:40]!r} is not known; give the model's "
        "tokenizer.json"
    )


def byte_level_split(name: str) -> "PreTokenizer":
    """The steps that split text as a pre-tokenizer of this name does, and write its bytes.

    Raises:
        VocabularyError: llama.cpp has none of this name.
    """
    from tokenizers import Regex, pre_tokenizers

    patterns = _entry(name)["patterns"]
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, letters])


def keeps_whole_words(name: str) -> bool:
    """True if a word that is a token is not put together by merges."""
    return name in _entry(name).get("whole_words", [])


def split_names(*, whole_words: bool) -> list[str]:
    """A name for each way to split text; where words that are tokens stay whole, or are not."""
    entries = _table()["splits"]
    names = [
        [name for name in one["names"] if (name in one.get("whole_words", ())) == whole_words]
        for one in entries
    ]
    return [of_entry[0] for of_entry in names if of_entry]


def user_defined(tokenizer: GgufTokenizer) -> dict[str, int]:
    """The tokens that are found in a text before it is split, and their ids."""
    control = {
        literal
        for key, literals in _table()["control"].items()
        if key not in tokenizer.more
        for literal in literals
    }
    ids = [token_id for token_id, of in enumerate(tokenizer.types) if of == USER_DEFINED]
    found = {tokenizer.tokens[token_id]: token_id for token_id in ids}
    return {token: i for token, i in found.items() if token and token not in control}
