"""Mistral `tekken.json`: special tokens first, then byte-level ranks."""

from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind, put_family
from pm_mined.vocabulary import TokenTable


def read_document(document: dict[str, Any]) -> TokenTable:
    """The special tokens and as many ranks as `default_vocab_size` leaves room for."""
    try:
        size = int(document["config"]["default_vocab_size"])
        special = int(document["config"]["default_num_special_tokens"])
        if not 0 <= special <= size:
            raise ValueError(f"{special} special tokens in a vocabulary of {size}")
        table = TokenTable(size)
        _put_special_tokens(table, special, document.get("special_tokens"))
        _put_ranks(table, special, document["vocab"])
    except (KeyError, TypeError, ValueError, OverflowError, Base64Error) as error:
        raise VocabularyError(f"a damaged tekken.json: {type(error).__name__}: {error}") from error
    return table


def _put_special_tokens(table: TokenTable, count: int, listed: list[dict[str, Any]] | None) -> None:
    """Listed in the file from version 7 on; the ids that are left are reserved."""
    for token_id in range(count):
        table.put(token_id, f"<SPECIAL_{token_id}>".encode(), Kind.UNUSED)
    if listed is None:
        put_family(table, "tekken", 0)
    for entry in listed or []:
        literal, rank = str(entry["token_str"]), _rank(entry)
        if not 0 <= rank < count:
            raise ValueError(f"special token {literal!r} has rank {rank} of {count}")
        table.add(rank, literal.encode(), added_kind(literal, special=True))


def _put_ranks(table: TokenTable, first_id: int, vocab: list[dict[str, Any]]) -> None:
    tokens, kinds, size = table.tokens, table.kinds, len(table)
    unused, text = int(Kind.UNUSED), int(Kind.TEXT)
    for entry in vocab:
        token_id = _rank(entry) + first_id
        if token_id < first_id:
            raise ValueError(f"rank {entry['rank']} is negative")
        if token_id < size:  # the rest of the ranks is not in use
            if kinds[token_id] != unused:
                raise ValueError(f"rank {entry['rank']} stands twice")
            tokens[token_id] = a2b_base64(entry["token_bytes"], strict_mode=True)
            kinds[token_id] = text
    missing = table.kinds.find(Kind.UNUSED, first_id)
    if missing >= 0:
        raise ValueError(f"rank {missing - first_id} is missing")


def _rank(entry: dict[str, Any]) -> int:
    rank = entry["rank"]
    if type(rank) is not int:  # `true` would count as 1
        raise TypeError(f"rank {rank!r:.60} is no integer")
    return rank
