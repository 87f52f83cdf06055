"""GGUF model files: the `tokenizer.ggml.*` fields."""

from pathlib import Path
from typing import Any

import numpy as np

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import encode, undo_byte_letters
from .sentencepiece import NORMAL, USER_DEFINED, put_piece

# `tokenizer.ggml.model`: what the tokens look like. "bert" writes word starts with `▁`, too.
_METASPACE = ("llama", "t5", "bert")
_BYTE_LEVEL = ("gpt2",)

_MOST = 2**21  # entries of a list: tokens, or their merges


def read(path: Path) -> TokenTable:
    """The vocabulary of a model file; the weights are not touched."""
    model, tokens, types = _fields(path)
    if model not in _METASPACE + _BYTE_LEVEL:
        known = ", ".join(_METASPACE + _BYTE_LEVEL)
        raise VocabularyError(f"GGUF tokenizer model {model!r} is not supported (only {known})")
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
        elif token_type == USER_DEFINED:
            table.add(token_id, encode(literal), added_kind(literal, special=False))
        else:
            put_piece(table, token_id, literal, token_type)


def _fields(path: Path) -> tuple[str, list[str], list[int]]:
    """The tokenizer's model, tokens and token types (all normal where there are none)."""
    model, tokens, types = read_fields(path, "model", "tokens", "token_type")
    if model is None or tokens is None:
        raise VocabularyError("a GGUF file without a tokenizer (no tokenizer.ggml.tokens)")
    if not is_list_of(tokens, str):
        raise VocabularyError("a damaged GGUF file: the tokens are not strings")
    types = [NORMAL] * len(tokens) if types is None else types
    if not is_list_of(types, int) or len(types) != len(tokens):
        raise VocabularyError(f"a damaged GGUF file: not one token type for {len(tokens)} tokens")
    return str(model), tokens, types


def read_fields(path: Path, *names: str) -> list[Any]:
    """The fields `tokenizer.ggml.NAME` of a file; None for those that it does not have."""
    try:
        with np.errstate(over="raise"):
            reader = _checked_reader(path)
            return [_contents(reader, f"tokenizer.ggml.{name}") for name in names]
    # What the reader of a damaged file runs into: sizes and counts that point past its end.
    except (ValueError, LookupError, ArithmeticError, TypeError) as error:
        raise VocabularyError(f"a damaged GGUF file ({error}); download it again") from error


def is_list_of(values: object, wanted: type) -> bool:
    """True for a list whose entries are all of one type."""
    return isinstance(values, list) and all(type(value) is wanted for value in values)


def _checked_reader(path: Path) -> Any:
    """The library's reader, which would read on past the end of the file, as far as it is told."""
    import gguf

    class CheckedReader(gguf.GGUFReader):  # type: ignore[misc] # untyped library
        def _get_field_parts(self, offset: int, raw_type: int) -> Any:
            if raw_type == gguf.GGUFValueType.ARRAY and self._get(offset + 4, np.uint64)[0] > _MOST:
                raise ValueError(f"a list of more than {_MOST} entries")
            return super()._get_field_parts(offset, raw_type)

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            part = super()._get(offset, dtype, count, *rest, **more)
            if len(part) != int(count):
                raise ValueError(f"it ends at byte {len(self.data)}, in the middle of a field")
            return part

    return CheckedReader(path)


def _contents(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
