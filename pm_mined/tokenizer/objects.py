"""Tokenizers that are objects of a library: each is saved in memory, as it would be in its file."""

import json
from os import PathLike
from typing import Any, Protocol, TypeAlias

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import SavedTokenizer

from .places import as_text


class _OfTransformers(Protocol):
    """A tokenizer of transformers; a fast one has `backend_tokenizer`, too."""

    name_or_path: str


class _OfTokenizers(Protocol):
    """A `tokenizers.Tokenizer`."""

    def to_str(self, pretty: bool = ...) -> str: ...


class _OfSentencePiece(Protocol):
    """A `sentencepiece.SentencePieceProcessor`."""

    def serialized_model_proto(self) -> bytes: ...


Spec: TypeAlias = (
    str | PathLike[str] | _OfTransformers | _OfTokenizers | _OfSentencePiece | SavedTokenizer
)
"""A name, a path, a Hub repository, or a tokenizer that is an object."""


def save_tokenizer(tokenizer: Any) -> SavedTokenizer:
    """Save a tokenizer in memory; it can be changed afterwards without changing the copy.

    No library is imported: the object is asked for what only a tokenizer of that library has.

    Raises:
        VocabularyError: it is a slow tokenizer of transformers, or none at all.
    """
    if isinstance(tokenizer, SavedTokenizer):
        return tokenizer
    kind = type(tokenizer).__name__
    name = as_text(str(getattr(tokenizer, "name_or_path", "") or kind))
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        if backend is tokenizer:
            return SavedTokenizer(backend.to_str(), name)
        return SavedTokenizer(_marked(tokenizer, backend), name, *_named(tokenizer))
    if hasattr(tokenizer, "serialized_model_proto"):
        if not (model := tokenizer.serialized_model_proto()):
            raise VocabularyError(f"a {kind} into which no model has been loaded")
        return SavedTokenizer(model, name)
    if hasattr(tokenizer, "name_or_path"):
        raise VocabularyError(
            f"a {kind} is not a fast tokenizer of transformers, so its tokens cannot be read from "
            "it; give the path of its file or folder instead"
        )
    raise VocabularyError(
        f"a {kind} is not a tokenizer; expected a name, a path, a Hub repository, a fast tokenizer "
        "of transformers, a tokenizers.Tokenizer or a sentencepiece.SentencePieceProcessor"
    )


def _marked(tokenizer: Any, backend: Any) -> str:
    """The backend of a tokenizer of transformers, with its special tokens flagged as such."""
    saved: str = backend.to_str()
    special = set(tokenizer.all_special_tokens)
    added = backend.get_added_tokens_decoder().values()
    if all(token.special for token in added if token.content in special):
        return saved
    document = json.loads(saved)
    for entry in document["added_tokens"]:
        entry["special"] = entry["special"] or entry["content"] in special
    return json.dumps(document)


def _named(tokenizer: Any) -> tuple[tuple[tuple[str, str], ...], str]:
    """The special tokens by name, and the chat template, of a tokenizer of transformers."""
    named = tokenizer.special_tokens_map.items()
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):  # of several, by name
        template = "\n".join(template.values())
    return tuple((name, str(token)) for name, token in named), template
