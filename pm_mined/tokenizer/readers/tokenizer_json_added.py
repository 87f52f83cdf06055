"""The `added_tokens` of a `tokenizer.json`: their ids, and what they write."""

import json
from collections.abc import Mapping
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import MAX_SIZE, TokenTable

from .byte_letters import encode
from .decoder import Written
from .growth import growth_of

_MOST_BYTES = 2**24  # of all added tokens as they are normalised


def put_added_tokens(
    table: TokenTable,
    added: Mapping[int, dict[str, Any]],
    written: Written,
    unknown_id: int | None,
) -> None:
    """Put the added tokens: text as it is written, special tokens as their literal.

    A special token that is written as a byte or as white space is ordinary text all the same;
    the model's unknown token stays what it is.
    """
    bytes_at = set(written.byte_places)
    for place, (token_id, entry) in enumerate(added.items()):
        literal, token = entry["content"], written.tokens[place]
        if place in bytes_at:
            table.add(token_id, token, Kind.BYTE)
        elif entry["special"] and not (literal.isspace() or _is_space(token)):
            table.add(token_id, encode(literal), added_kind(literal, special=True))
        elif token_id == unknown_id:
            table.added.add(token_id)
        else:
            table.add(token_id, token, added_kind(literal, special=False))


def _is_space(token: bytes) -> bool:
    return token.decode(errors="replace").isspace()


def as_stored(entries: list[dict[str, Any]], normalizer: dict[str, Any] | None) -> dict[str, str]:
    """The text that the library decodes for each literal: normalised, where an entry says so.

    Raises:
        VocabularyError: the normalizer is damaged, or could fill the memory.
    """
    literals = [entry["content"] for entry in entries]
    changed = any(entry.get("normalized") for entry in entries)
    if not changed or not normalizer or normalizer.get("normalizers") == []:
        return dict(zip(literals, literals, strict=True))
    size = growth_of([normalizer]) * sum(len(literal.encode()) for literal in literals)
    if size > _MOST_BYTES:
        raise VocabularyError(f"its normalizer can make {size:.1e} bytes of its added tokens")
    return _normalized(entries, normalizer)


def _normalized(entries: list[dict[str, Any]], normalizer: dict[str, Any]) -> dict[str, str]:
    """Literal -> what the library keeps for it, in a tokenizer of these tokens alone."""
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    document = {"model": model, "normalizer": normalizer, "added_tokens": entries}
    with library_errors("`tokenizers` cannot use its normalizer and added tokens"):
        tokenizer = Tokenizer.from_str(json.dumps(document))
        stored = tokenizer.get_vocab(with_added_tokens=True)
        return {one: str(tokenizer.id_to_token(token_id)) for one, token_id in stored.items()}


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
