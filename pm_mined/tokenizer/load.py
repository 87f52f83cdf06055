"""`load_vocabulary`: from a name, a path, a Hub repository or a tokenizer to its vocabulary."""

import json
from dataclasses import replace
from os import PathLike

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import SavedTokenizer, TokenTable, Vocabulary

from .locate import TokenizerFiles, locate
from .named_roles import roles_named
from .objects import Spec, save_tokenizer
from .readers import sentencepiece, tokenizer_json
from .readers.load import read_tokens
from .readers.model_folder import read_folder
from .special_tokens import put_family


def load_vocabulary(spec: Spec | Vocabulary) -> Vocabulary:
    """Load a vocabulary by name (`"llama"`), path, or Hub repository (`"Qwen/Qwen3-8B"`).

    A name of the registry comes first: write `./llama` for a file or folder of that name.

    A tokenizer that is loaded already is taken as it is: a fast one of transformers, a
    `tokenizers.Tokenizer` or a `sentencepiece.SentencePieceProcessor`. A vocabulary is returned.

    Raises:
        VocabularyError: there is no such vocabulary, or it cannot be read.

    >>> llama = load_vocabulary("llama3")  # doctest: +SKIP
    >>> len(llama), llama[9906]  # doctest: +SKIP
    (128256, b'Hello')
    >>> load_vocabulary(AutoTokenizer.from_pretrained("Qwen/Qwen3-8B"))  # doctest: +SKIP
    Vocabulary(Qwen/Qwen3-8B, 151,669 tokens)
    """
    if isinstance(spec, Vocabulary):
        return spec
    if not isinstance(spec, str | PathLike):
        return _in_memory(save_tokenizer(spec))
    found = locate(spec)
    made = _vocabulary(_read_files(found), found.name, found.source)
    return replace(made, tokenizer=spec)


def _vocabulary(table: TokenTable, name: str, source: str) -> Vocabulary:
    return Vocabulary.from_tokens(
        table.tokens, table.kinds, name=name, source=source, added=table.added, roles=table.roles
    )


def _read_files(found: TokenizerFiles) -> TokenTable:
    if found.folder is not None:
        return read_folder(found.folder, found.file)
    table = read_tokens(found.file)
    if found.family is not None:
        put_family(table, found.family, len(table))
    return table


def _in_memory(saved: SavedTokenizer) -> Vocabulary:
    try:
        if isinstance(saved.content, bytes):
            table = sentencepiece.read_model(saved.content)
        else:
            table = tokenizer_json.read_document(json.loads(saved.content))
    except VocabularyError as error:
        raise VocabularyError(f"{saved.name}: {error}") from error
    table.roles |= roles_named(table, dict(saved.named), {}, saved.chat_template)
    return replace(_vocabulary(table, saved.name, "memory"), tokenizer=saved)
