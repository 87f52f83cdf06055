"""Text in the middle of a longer one, for tokenizers of the library `tokenizers`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .libraries import Encode, Ids, by_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A letter that is its own lower case and normal form, and that no vocabulary has pieces with.
_LETTER = "ꙮ"


def keep_edges(document: dict[str, Any]) -> dict[str, Any]:
    """A parsed `tokenizer.json`, without the steps that add or remove spaces around a text."""
    steps = {name: _inside(document.get(name)) for name in ("normalizer", "pre_tokenizer")}
    return {**document, **steps}


def _inside(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A step without what it does at the edges of a text; None if it does nothing else."""
    if step is None or step["type"] in ("Prepend", "Strip"):
        return None
    if step["type"] == "Metaspace":
        rest = {name: value for name, value in step.items() if name != "add_prefix_space"}
        return {**rest, "prepend_scheme": "never"}
    if "add_prefix_space" in step:
        return {**step, "add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            return {**step, name: _all_inside(step[name])}
    return step


def _all_inside(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for several steps, less a `WhitespaceSplit` whose spaces a `Metaspace` puts back."""
    if any(step["type"] == "Metaspace" for step in steps):
        steps = [step for step in steps if step["type"] != "WhitespaceSplit"]
    return [inside for step in steps if (inside := _inside(step)) is not None]


def continuing_words(tokenizer: "Tokenizer") -> Encode:
    """The encoder of a WordPiece tokenizer for texts that may begin in the middle of a word.

    Each text is encoded after a letter that is a piece of its own, and so goes on from there.
    """
    from tokenizers.models import WordPiece

    model, vocabulary = tokenizer.model, tokenizer.get_vocab(with_added_tokens=False)
    letter_id = 1 + max(tokenizer.get_vocab().values())
    tokenizer.model = WordPiece(
        vocabulary | {_LETTER: letter_id},
        unk_token=model.unk_token,
        max_input_chars_per_word=model.max_input_chars_per_word + 1,
        continuing_subword_prefix=model.continuing_subword_prefix,
    )
    encode_after = by_tokenizers(tokenizer)

    def encode(texts: Sequence[str]) -> list[Ids]:
        # The letter is part of a whole word that is unknown.
        encoded = encode_after([_LETTER + text for text in texts])
        return [ids[1:] if list(ids[:1]) == [letter_id] else ids for ids in encoded]

    return encode
