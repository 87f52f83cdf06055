"""JSON files: tells a Hugging Face tokenizer.json from a Mistral tekken.json."""

import json
from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import TokenTable

from . import tekken, tokenizer_json


def read(path: Path) -> TokenTable:
    """Parse the file and hand it to the reader of its format."""
    document = parse(path)
    if is_tokenizer_json(document):
        return tokenizer_json.read_document(document)
    return tekken.read_document(document)


def is_tokenizer_json(document: dict[str, Any]) -> bool:
    """True for a tokenizer.json, false for a tekken.json."""
    return isinstance(document.get("model"), dict)


def parse(path: Path) -> dict[str, Any]:
    """The object in the file: with `model` a tokenizer.json, with `config` a tekken.json.

    Raises:
        VocabularyError: it is neither.
    """
    return parse_text(path.read_bytes())


def parse_text(text: str | bytes) -> dict[str, Any]:
    """The same of the contents of a file.

    Raises:
        VocabularyError: as `parse`.
    """
    try:
        whole = text if isinstance(text, str) else text.decode("utf-8-sig")
        document = json.loads(whole)
    except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8; too deep
        raise VocabularyError(f"not JSON, or cut off: {error}; download it again") from error
    if isinstance(document, dict):
        is_tekken = isinstance(document.get("vocab"), list) and isinstance(
            document.get("config"), dict
        )
        if is_tokenizer_json(document) or is_tekken:
            return document
        found = ", ".join(repr(key[:30]) for key in list(document)[:3])
        found = f"an object with {found}, ..." if document else "an empty object"
    else:
        found = f"a {type(document).__name__}"
    raise VocabularyError(
        f"JSON, but not a tokenizer: {found}; expected a Hugging Face tokenizer.json (with "
        "'model') or a Mistral tekken.json (with 'config' and 'vocab')"
    )
