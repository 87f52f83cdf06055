"""GGUF model files: the `tokenizer.ggml.*` fields."""

from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import undo_byte_letters
from .sentencepiece import CONTROL, NORMAL, UNKNOWN, UNUSED, put_piece

# `tokenizer.ggml.model`: what the tokens look like. "bert" writes word starts with `▁`, too.
_METASPACE = ("llama", "t5", "bert")
_BYTE_LEVEL = ("gpt2",)


def read(path: Path) -> TokenTable:
    """The vocabulary of a model file; the weights are not touched."""
    model, tokens, types = _fields(path)
    if model not in _METASPACE + _BYTE_LEVEL:
        known = ", ".join(_METASPACE + _BYTE_LEVEL)
        raise VocabularyError(f"GGUF tokenizer model {model!r} is not supported (only {known})")
    if len(types) != len(tokens):
        raise VocabularyError(f"{len(tokens)} tokens, but {len(types)} token types")
    table = TokenTable(len(tokens))
    if model in _METASPACE:
        for token_id, (piece, piece_type) in enumerate(zip(tokens, types, strict=True)):
            put_piece(table, token_id, piece, piece_type)
    else:
        _put_byte_level(table, tokens, types)
    return table


def _put_byte_level(table: TokenTable, tokens: list[str], types: list[int]) -> None:
    undone = undo_byte_letters(tokens)
    for token_id, (literal, token_type) in enumerate(zip(tokens, types, strict=True)):
        if token_type == NORMAL:
            table.put(token_id, undone[token_id], Kind.TEXT)
        elif token_type == UNUSED:
            table.put(token_id, literal.encode(), Kind.UNUSED)
        else:
            special = token_type in (CONTROL, UNKNOWN)
            table.put(token_id, literal.encode(), added_kind(literal, special=special))


def _fields(path: Path) -> tuple[str, list[str], list[int]]:
    """The tokenizer's model, tokens and token types (all normal where there are none)."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        model = _contents(reader, "tokenizer.ggml.model")
        tokens = _contents(reader, "tokenizer.ggml.tokens")
        types = _contents(reader, "tokenizer.ggml.token_type")
    # What the reader of a damaged file runs into: sizes and counts that point past its end.
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise VocabularyError(f"a damaged GGUF file ({error}); download it again") from error
    if model is None or tokens is None:
        raise VocabularyError("a GGUF file without a tokenizer (no tokenizer.ggml.tokens)")
    return str(model), tokens, types if types is not None else [NORMAL] * len(tokens)


def _contents(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
