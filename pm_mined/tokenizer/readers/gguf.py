"""GGUF model files: the `tokenizer.ggml.*` fields.

They mean what llama.cpp makes of them:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.named_roles import roles_named
from pm_mined.tokenizer.special_tokens import added_kind, looks_special, role_of
from pm_mined.vocabulary import TokenTable

from . import json_file, tokenizer_json
from .byte_letters import undo_byte_letters
from .gguf_header import read_header
from .sentencepiece import NORMAL, PIECE_TYPES, USER_DEFINED, put_piece

_PREFIX = "tokenizer.ggml."

# What names a token by its id, and the role that it then has; the first of several counts.
_ROLES = {
    "eot_token_id": "end_of_turn",
    "eom_token_id": "end_of_message",
    "eos_token_id": "eos",
    "bos_token_id": "bos",
    "cls_token_id": "cls",
    "seperator_token_id": "sep",  # as llama.cpp spells it
    "separator_token_id": "sep",
    "mask_token_id": "mask",
    "fim_pre_token_id": "fim_prefix",
    "prefix_token_id": "fim_prefix",
    "fim_suf_token_id": "fim_suffix",
    "suffix_token_id": "fim_suffix",
    "fim_mid_token_id": "fim_middle",
    "middle_token_id": "fim_middle",
    "fim_pad_token_id": "fim_pad",
    "fim_rep_token_id": "repo_name",
    "fim_sep_token_id": "file_separator",
    "padding_token_id": "pad",
    "unknown_token_id": "unk",
}

_CHAT_TEMPLATE = "tokenizer.chat_template"
TOKENIZER_JSON = "tokenizer.huggingface.json"
"""The key of the whole `tokenizer.json`, which says more than all others; few files have it."""

_NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_FIELDS = [
    *("model", "tokens", "token_type", "scores", "merges", "pre", *_ROLES),
    *("add_space_prefix", "normalizer.lowercase", "normalizer.strip_accents"),
]

# Pre-tokenizers of byte-level models whose tokens are written as those of `gemma4` all the same.
_LIKE_GEMMA4 = ("gemma4", "granite-embed-multi-311m", "sarvam-moe")


@dataclass(frozen=True)
class GgufTokenizer:
    """The fields of a file's tokenizer; `more` are those that a file may lack."""

    model: str
    tokens: list[str]
    types: list[int]
    more: dict[str, Any]

    def entries(self, name: str, wanted: type) -> list[Any]:
        """A list whose entries are all of type `wanted`.

        Raises:
            VocabularyError: the file has none of this name.
        """
        values: list[Any] | None = self.more.get(name)
        if values is None or not _is_list_of(values, wanted):
            raise VocabularyError(
                f"a GGUF file without a list {_PREFIX}{name}; give the model's tokenizer.json"
            )
        return values


def read(path: Path) -> TokenTable:
    """The vocabulary of a model file; the weights are not touched."""
    tokenizer = read_tokenizer(path)
    document = carried_document(tokenizer)
    if document is not None:
        return _read_carried(tokenizer, document)
    if tokenizer.model not in _WRITTEN:
        known = ", ".join(_WRITTEN)
        raise VocabularyError(
            f"GGUF tokenizer model {tokenizer.model[:40]!r} is not supported (only {known})"
        )
    table = TokenTable(len(tokenizer.tokens))
    table.tokens = _WRITTEN[tokenizer.model](tokenizer.tokens)
    table.kinds[:] = bytes([Kind.TEXT]) * len(table)
    for token_id, token_type in enumerate(tokenizer.types):
        if token_type != NORMAL:
            _put_other(table, token_id, tokenizer, token_type)
    _put_named(table, tokenizer)
    return table


def carried_document(tokenizer: GgufTokenizer) -> dict[str, Any] | None:
    """The `tokenizer.json` that a file carries, parsed; None if it carries none.

    Raises:
        VocabularyError: it is none.
    """
    text = tokenizer.more.get(TOKENIZER_JSON)
    if text is None:
        return None
    document = json_file.parse_text(str(text))
    if not json_file.is_tokenizer_json(document):
        raise VocabularyError(f"a damaged GGUF file: {TOKENIZER_JSON} is no tokenizer.json")
    return document


def _read_carried(tokenizer: GgufTokenizer, document: dict[str, Any]) -> TokenTable:
    """The vocabulary of the carried file; the tokens that pad it to the model's width are not."""
    table = tokenizer_json.read_document(document)
    ids = {role: tokenizer.more.get(f"{name}_token_id") for name, role in _NAMED.items()}
    named = {
        role: tokenizer.tokens[token_id]
        for role, token_id in ids.items()
        if type(token_id) is int and 0 <= token_id < len(tokenizer.tokens)
    }
    template = tokenizer.more.get(_CHAT_TEMPLATE)
    text = template if isinstance(template, str) else ""
    table.roles |= roles_named(table, named, {}, text)
    return table


def read_tokenizer(path: Path) -> GgufTokenizer:
    """The fields of a file's tokenizer; those of the last file are kept for its encoder.

    Raises:
        VocabularyError: the file is damaged, or has no tokenizer.
    """
    status = path.stat()
    return _read_version(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _read_version(path: Path, _: tuple[int, ...]) -> GgufTokenizer:
    asked = [_CHAT_TEMPLATE, TOKENIZER_JSON, *(_PREFIX + name for name in _FIELDS)]
    found = read_header(path, asked)
    fields = {key.removeprefix(_PREFIX): value for key, value in found.items()}
    model, tokens = fields.pop("model", None), fields.pop("tokens", None)
    if not isinstance(model, str) or tokens is None:
        raise VocabularyError(
            "a GGUF file without a tokenizer (no tokenizer.ggml.tokens); of a model in several "
            "files, the first has it"
        )
    if not _is_list_of(tokens, str):
        raise VocabularyError("a damaged GGUF file: the tokens are not strings")
    types = fields.pop("token_type", [NORMAL] * len(tokens))
    if not _is_list_of(types, int) or len(types) != len(tokens):
        raise VocabularyError(f"a damaged GGUF file: not one token type for {len(tokens)} tokens")
    if strange := set(types) - set(PIECE_TYPES):
        raise VocabularyError(f"a damaged GGUF file: tokens of unknown type {min(strange)}")
    if model == "gpt2" and fields.get("pre") in _LIKE_GEMMA4:
        model = "gemma4"
    return GgufTokenizer(model, tokens, types, fields)


def _is_list_of(values: object, wanted: type) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {wanted}


def _put_other(table: TokenTable, token_id: int, tokenizer: GgufTokenizer, of: int) -> None:
    """Write a token that is not normal."""
    literal = tokenizer.tokens[token_id]
    if of == USER_DEFINED and _WRITTEN[tokenizer.model] is not _undo_marks:
        table.add(token_id, literal.encode(), added_kind(literal, special=False))
    else:
        put_piece(table, token_id, literal, of)


def _put_named(table: TokenTable, tokenizer: GgufTokenizer) -> None:
    """Give the tokens that the file names by their ids their roles.

    An id that no token has names none: llama.cpp ignores it, and writes 2^32 - 1 for none.
    """
    for name, role in _ROLES.items():
        token_id = tokenizer.more.get(name, len(table))
        if type(token_id) is not int:
            found = repr(token_id)[:40]
            raise VocabularyError(f"a damaged GGUF file: {_PREFIX}{name} is {found}")
        if 0 <= token_id < len(table) and token_id not in table.roles:
            _put_role(table, token_id, tokenizer.tokens[token_id], role)
    _put_turns(table, tokenizer)


def _put_turns(table: TokenTable, tokenizer: GgufTokenizer) -> None:
    """Give the tokens that begin and end a turn in the chat template those roles."""
    template = tokenizer.more.get(_CHAT_TEMPLATE)
    if not isinstance(template, str):
        return
    ends = [table.tokens[i].decode(errors="replace") for i, r in table.roles.items() if r == "eos"]
    named = {"eos_token": ends[0]} if ends else {}
    for token_id, role in roles_named(table, named, {}, template).items():
        if table.roles.get(token_id, "eos") == "eos":
            table.roles[token_id] = role


def _put_role(table: TokenTable, token_id: int, literal: str, role: str) -> None:
    """Give a token a role; what is typed normal then is special, in the bytes that it has.

    Some models pad with a token of ordinary text, or call their first token unknown: that is text.
    """
    marks = role not in ("pad", "unk") or role_of(literal) == role or looks_special(literal)
    if marks and table.kinds[token_id] == Kind.TEXT:
        table.add(token_id, table.tokens[token_id], added_kind(literal, special=True))
    if table.kinds[token_id] == Kind.SPECIAL:
        table.roles[token_id] = role


def _undo_marks(tokens: list[str]) -> list[bytes]:
    """SentencePiece's way to write spaces; "bert" writes the start of a word so, too."""
    return [token.replace("▁", " ").encode() for token in tokens]


def _as_they_are(tokens: list[str]) -> list[bytes]:
    return [token.encode() for token in tokens]


_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def _undo_escapes(tokens: list[str]) -> list[bytes]:
    r"""RWKV's tokens are written as in Python's source: `\n`, `\xff`."""

    def unescape(match: re.Match[bytes]) -> bytes:
        what = match[1]
        return bytes.fromhex(what[1:].decode()) if len(what) == 3 else _ESCAPED.get(what, what)

    return [_ESCAPE.sub(unescape, token.encode()) for token in tokens]


_WRITTEN: dict[str, Callable[[list[str]], list[bytes]]] = {
    "llama": _undo_marks,
    "t5": _undo_marks,
    "bert": _undo_marks,
    "gemma4": _undo_marks,
    "gpt2": undo_byte_letters,
    "rwkv": _undo_escapes,
    "plamo2": _as_they_are,
}
