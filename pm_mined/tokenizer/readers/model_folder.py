"""A Hugging Face model folder: which of its files holds the tokenizer, and what is beside it."""

from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.named_roles import roles_named
from pm_mined.vocabulary import TokenTable

from . import json_file, tokenizer_json
from .added_tokens import add_to_document, put_added_tokens
from .folder_config import FolderConfig, read_config
from .load import errors_begin_with, format_of, read_tokens, with_tokens

TOKENIZER_FILES = (
    "tokenizer.json",
    "tekken.json",
    "tokenizer.model",
    "spiece.model",
    "tiktoken.model",
    "*.tiktoken",
)
"""Names of tokenizer files, best first. `tokenizer.model` is SentencePiece or tiktoken."""


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer file of a model folder, if it has one."""
    for pattern in TOKENIZER_FILES:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    return None


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer file of a model folder.

    Raises:
        VocabularyError: it has none.
    """
    path = find_tokenizer(folder)
    if path is None:
        shifted = (folder / "sentencepiece.bpe.model").exists()
        found = "sentencepiece.bpe.model, whose ids its models shift" if shifted else "no tokenizer"
        raise VocabularyError(
            f"{folder}: a folder with {found} (looked for {', '.join(TOKENIZER_FILES)}); "
            "saving it again with transformers' AutoTokenizer writes a tokenizer.json"
        )
    return path


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
        if file.suffix != ".json":  # a tekken.json lists all that it has
            with errors_begin_with(folder):
                put_added_tokens(table, config)
    table.roles |= roles_named(table, config.named, config.ids, config.chat_template)
    return table


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
    if format_of(file) != "json_file":
        return None
    with errors_begin_with(file):
        document = json_file.parse(file)
        is_one = json_file.is_tokenizer_json(document)
        return add_to_document(document, config) if is_one else None
