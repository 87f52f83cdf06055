"""The `added_tokens` of a `tokenizer.json`: their ids, and what they write."""

from collections.abc import Mapping
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import MAX_SIZE, TokenTable

from .byte_letters import encode
from .decoder import write


def put_added_tokens(
    table: TokenTable,
    added: Mapping[int, dict[str, Any]],
    decoder: dict[str, Any] | None,
    unknown_id: int | None,
) -> None:
    """Put the added tokens: text as the decoder writes it, special tokens as their literal.

    A special token that is written as a byte or as white space is ordinary text all the same;
    the model's unknown token stays what it is.

    Raises:
        VocabularyError: an entry is damaged.
    """
    literals = [entry["content"] for entry in added.values()]
    written, byte_places = write(decoder, literals)
    for place, (token_id, entry) in enumerate(added.items()):
        literal, special = literals[place], entry["special"]
        if place in byte_places:
            table.add(token_id, written[place], Kind.BYTE)
        elif special and not written[place].decode(errors="replace").isspace():
            table.add(token_id, encode(literal), added_kind(literal, special=True))
        elif token_id == unknown_id:
            table.added.add(token_id)
        else:
            table.add(token_id, written[place], added_kind(literal, special=False))


def number(
    entries: list[dict[str, Any]], model_ids: Mapping[str, int], model_size: int
) -> dict[int, dict[str, Any]]:
    """The entry of each added id, numbered as the library does it: the ids in the file are notes.

    A token that the model has, too, keeps its id there. Others are numbered on from the count of
    the model's tokens, though one of those may have that id.

    >>> number([{"id": 7, "content": "<s>", "special": True}], {"a": 0}, 1)
    {1: {'id': 7, 'content': '<s>', 'special': True}}
    """
    ids = dict[str, int]()
    numbered = dict[int, dict[str, Any]]()
    claimed = dict[int, str]()
    next_id = model_size
    for entry in entries:
        literal = _checked(entry)["content"]
        if claimed.setdefault(entry["id"], literal) != literal:
            raise VocabularyError(
                f"added tokens {claimed[entry['id']]!r} and {literal!r} share id {entry['id']}"
            )
        known = ids.get(literal, model_ids.get(literal))
        if not literal:
            continue
        if known is None:
            known, next_id = next_id, next_id + 1
        ids[literal] = known
        numbered[known] = entry
    return numbered


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as it is, if the library would take it."""
    token_id, literal, special = entry["id"], entry["content"], entry["special"]
    if type(token_id) is not int or not 0 <= token_id < MAX_SIZE:
        raise VocabularyError(f"added token {literal!r} has id {token_id!r}")
    if not isinstance(literal, str) or type(special) is not bool:
        raise VocabularyError(f"added token {token_id} is {literal!r}, with special {special!r}")
    return entry
