"""A Hugging Face model folder: which of its files holds the tokenizer, and what is beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import encode
from .load import read_tokens

TOKENIZER_FILES = (
    "tokenizer.json",
    "tekken.json",
    "tokenizer.model",
    "spiece.model",
    "*.tiktoken",
)
"""Names of tokenizer files, best first. `tokenizer.model` is SentencePiece or tiktoken."""

ADDED_TOKENS_FILES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")

_MARK = "▁".encode()


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
    """Read the tokenizer file of a model folder, and added tokens in files of their own.

    Raises:
        VocabularyError: a file cannot be read, or is damaged.
    """
    table = read_tokens(file)
    try:
        if file.suffix != ".json":
            put_added_tokens(table, folder)
    except VocabularyError as error:
        raise VocabularyError(f"{folder}: {error}") from error
    return table


def put_added_tokens(table: TokenTable, folder: Path) -> None:
    """Write the tokens that a model folder adds to its SentencePiece or rank file.

    Raises:
        VocabularyError: a file is damaged; the text does not name the folder.
    """
    try:
        for token_id, literal, special in _added_tokens(folder):
            _put_added(table, token_id, literal, special=special)
    except VocabularyError as error:
        raise VocabularyError(f"added tokens: {error}") from error


def _put_added(table: TokenTable, token_id: object, literal: object, *, special: object) -> None:
    """Write one added token, unless the model has it already: then it is written as there."""
    if type(token_id) is not int or not isinstance(literal, str) or type(special) is not bool:
        raise VocabularyError(f"token {literal!r} has id {token_id!r} and special {special!r}")
    kind, token = added_kind(literal, special=special), encode(literal)
    known = 0 <= token_id < len(table) and table.kinds[token_id] == Kind.TEXT
    if known and kind == Kind.TEXT and table.tokens[token_id] == token.replace(_MARK, b" "):
        table.added.add(token_id)
        return
    table.add(token_id, token, kind)


def _added_tokens(folder: Path) -> Iterator[tuple[object, object, object]]:
    """(id, literal, special), unchecked, of what was added to a SentencePiece or rank file."""
    decoder = _json_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    try:
        if decoder is not None:
            for token_id, entry in decoder.items():
                yield int(token_id), entry["content"], entry["special"]
        else:
            special = _literals(_json_object(folder / "special_tokens_map.json"))
            for literal, token_id in _json_object(folder / "added_tokens.json").items():
                yield token_id, literal, literal in special
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VocabularyError(f"damaged: {type(error).__name__}: {error}") from error


def _literals(special_tokens_map: dict[str, Any]) -> set[str]:
    """Every literal that a special_tokens_map.json names."""
    literals = set()
    for value in special_tokens_map.values():
        for entry in value if isinstance(value, list) else [value]:
            literals.add(entry["content"] if isinstance(entry, dict) else str(entry))
    return literals


def _json_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file."""
    if not path.exists():
        return {}
    if not path.is_file():
        raise VocabularyError(f"{path.name}: not a regular file")
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise VocabularyError(f"{path.name}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path.name}: not JSON, or cut off: {error}") from error
    if not isinstance(document, dict):
        raise VocabularyError(f"{path.name}: expected an object, found a {type(document).__name__}")
    return document
