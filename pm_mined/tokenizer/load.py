"""`load_vocabulary`: from a name, a path or a Hub repository to a vocabulary."""

import json
from dataclasses import replace
from os import PathLike

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import TokenizerJson, Vocabulary

from .locate import locate
from .readers.load import read_tokens
from .readers.model_folder import read_folder
from .readers.tokenizer_json import read_document
from .special_tokens import put_family


def load_vocabulary(spec: str | PathLike[str]) -> Vocabulary:
    """Load a vocabulary by name (`"llama"`), path, or Hub repository (`"Qwen/Qwen3-8B"`).

    A name of the registry comes first: write `./llama` for a file or folder of that name.

    Raises:
        VocabularyError: there is no such vocabulary, or it cannot be read.
    """
    found = locate(spec)
    table = (
        read_tokens(found.file) if found.folder is None else read_folder(found.folder, found.file)
    )
    if found.family is not None:
        put_family(table, found.family, len(table))
    vocabulary = Vocabulary.from_tokens(
        table.tokens, table.kinds, name=found.name, source=found.source
    )
    return replace(vocabulary, tokenizer=spec)


def parse_vocabulary(tokenizer_json: str, name: str) -> Vocabulary:
    """The vocabulary of the text of a `tokenizer.json`, such as a loaded tokenizer writes.

    Raises:
        VocabularyError: it cannot be understood.
    """
    try:
        table = read_document(json.loads(tokenizer_json))
    except (VocabularyError, ValueError) as error:
        raise VocabularyError(f"{name}: {error}") from error
    vocabulary = Vocabulary.from_tokens(table.tokens, table.kinds, name=name)
    return replace(vocabulary, tokenizer=TokenizerJson(tokenizer_json, name))
