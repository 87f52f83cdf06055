"""A Hugging Face model folder: which of its files holds the tokenizer, and what is beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.named_roles import roles_named
from pm_mined.vocabulary import TokenTable

from . import json_file, tokenizer_json, vocab_merges, word_piece
from .added_tokens import add_to_document, put_added_tokens, put_renumbered_tokens
from .folder_config import FolderConfig, read_config
from .load import errors_begin_with, format_of, read_tokens, with_tokens

TOKENIZER_FILES = (
    "tokenizer.json",
    "tekken.json",
    "tokenizer.model",
    "spiece.model",
    "tiktoken.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
)
"""Names of tokenizer files, best first. `tokenizer.model` is SentencePiece or tiktoken."""

MERGES_FILE = "merges.txt"
"""A `vocab.json` is nothing without it."""

_SAVE_AGAIN = "saving it again with transformers' AutoTokenizer writes a tokenizer.json"

# What folders have that cannot be read, and the next step.
_OTHERS = {
    "sentencepiece.bpe.model": f"{{}}, whose ids its models shift; {_SAVE_AGAIN}",
    "vocab.json": f"{{}}, but without the {MERGES_FILE} beside it; {_SAVE_AGAIN}",
    "*.gguf": "GGUF files; give the path of one, such as {}",
    "tokenization_*.py": "a tokenizer in Python code of its own ({}), which is not run; give "
    "the folder or repository of a tokenizer.json for it",
}


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer file of a model folder, if it has one."""
    for pattern in TOKENIZER_FILES:
        found = sorted(folder.glob(pattern))
        if found and (pattern != "vocab.json" or (folder / MERGES_FILE).exists()):
            return found[0]
    return None


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer file of a model folder.

    Raises:
        VocabularyError: it has none.
    """
    path = find_tokenizer(folder)
    if path is None:
        raise VocabularyError(f"{folder}: {_why_none(folder)}")
    return path


def _why_none(folder: Path) -> str:
    """Say what a folder without a tokenizer has instead, and what to do."""
    for pattern, reason in _OTHERS.items():
        if found := sorted(folder.glob(pattern)):
            return f"a folder with {reason.format(found[0].name)}"
    looked_for = ", ".join(TOKENIZER_FILES)
    return f"a folder with no tokenizer (looked for {looked_for}); give the one of its tokenizer"


def read_folder(folder: Path, file: Path) -> TokenTable:
    """Read the tokenizer file of a model folder, and what the files beside it say of its tokens.

    Raises:
        VocabularyError: a file cannot be read, or is damaged.
    """
    config = folder_config(folder)
    document = folder_document(file, config)
    if document is not None:
        with errors_begin_with(file):
            table = with_tokens(tokenizer_json.read_document(document))
    else:
        table = read_tokens(file)
        put = _PUT_ADDED.get(format_of(file))
        if put is not None:  # a tekken.json lists all that it has
            with errors_begin_with(folder):
                put(table, config)
    table.roles |= roles_named(table, config.named, config.ids, config.chat_template)
    return table


_PUT_ADDED: dict[str, Callable[[TokenTable, FolderConfig], object]] = {
    "sentencepiece": put_renumbered_tokens,
    "tiktoken": put_added_tokens,
}


def folder_config(folder: Path) -> FolderConfig:
    """Read what the files beside the tokenizer of a model folder say.

    Raises:
        VocabularyError: a file cannot be read, or is damaged.
    """
    with errors_begin_with(folder):
        return read_config(folder)


def folder_document(file: Path, config: FolderConfig) -> dict[str, Any] | None:
    """The tokenizer of a folder as a parsed tokenizer.json, if it can be one; else None.

    Raises:
        VocabularyError: a file cannot be read, or is damaged.
    """
    form = format_of(file)
    with errors_begin_with(file):
        return _document(file, form, config)


def _document(file: Path, form: str, config: FolderConfig) -> dict[str, Any] | None:
    if form == "word_piece":
        return word_piece.read_folder(file, config)
    if file.name == "vocab.json":
        return vocab_merges.read_folder(file, config)
    document = json_file.parse(file) if form == "json_file" else {}
    return add_to_document(document, config) if json_file.is_tokenizer_json(document) else None
