"""The tokens that a model folder adds to its tokenizer file, put where AutoTokenizer has them."""

from dataclasses import replace
from itertools import count
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import encode
from .folder_config import AddedToken, FolderConfig, special_token

_MARK = "▁".encode()


def add_to_document(document: dict[str, Any], config: FolderConfig) -> dict[str, Any]:
    """A parsed tokenizer.json with the tokens and the flags that the folder gives it.

    New tokens follow in the order of the folder's ids, whatever those are: the library counts on
    from the last id. What is special by name (`eos_token`) is so, whatever the file has.

    Raises:
        VocabularyError: the document is damaged.
    """
    decoder = {token.literal: token for token in config.decoder.values()}
    special = {literal: special_token(literal) for literal in config.special}
    if not decoder and not special:
        return document
    try:
        listed = [
            _changed(entry, decoder.get(entry["content"]), special=entry["content"] in special)
            for entry in document.get("added_tokens") or []
        ]
        ids = _model_ids(document["model"])
        next_ids = count(1 + max([-1, *ids.values(), *(entry["id"] for entry in listed)]))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise VocabularyError(
            f"a damaged tokenizer.json: {type(error).__name__}: {error}"
        ) from error
    known = {entry["content"] for entry in listed}
    only_special = {one: token for one, token in special.items() if one not in decoder}
    new = [token for one, token in (decoder | only_special).items() if one not in known]
    more = [
        {"id": ids[one.literal] if one.literal in ids else next(next_ids), **_entry(one)}
        for one in new
    ]
    return {**document, "added_tokens": listed + more}


def _changed(entry: dict[str, Any], token: AddedToken | None, *, special: bool) -> dict[str, Any]:
    """An entry of the document with the flags of the folder, where that has any."""
    if token is not None:
        return {**entry, **token.flags}
    return {**entry, "special": True} if special else entry


def _entry(token: AddedToken) -> dict[str, Any]:
    return {"content": token.literal, **token.flags}


def _model_ids(model: dict[str, Any]) -> dict[str, int]:
    vocab = model["vocab"]
    if isinstance(vocab, list):  # of Unigram: [token, score]
        return {piece[0]: token_id for token_id, piece in enumerate(vocab)}
    return dict(vocab)


def put_added_tokens(table: TokenTable, config: FolderConfig) -> None:
    """Write the tokens that a model folder adds to its rank file, by the ids that it gives them.

    What is only named follows the last id.

    Raises:
        VocabularyError: a token or an id cannot be.
    """
    for token_id, token in config.decoder.items():
        _put(table, token_id, token)
    ids = _first_ids(table)
    for literal in config.special:
        _put(table, _id_of(ids, literal, len(table)), special_token(literal))


def put_renumbered_tokens(table: TokenTable, config: FolderConfig) -> dict[int, AddedToken]:
    """Write the tokens that a model folder adds to its SentencePiece model; return them by id.

    Beyond the model's own ids, the library counts on from the last, whatever the folder says.

    Raises:
        VocabularyError: a token cannot be.
    """
    size, ids, added = len(table), _first_ids(table), {}
    for given, token in config.decoder.items():
        token_id = given if given < size else _id_of(ids, token.literal, len(table))
        _put(table, token_id, token)
        added[token_id] = token
    put_added_tokens(table, replace(config, decoder={}))
    return added


def _put(table: TokenTable, token_id: int, token: AddedToken) -> None:
    """Write one added token, unless the model has it already: then it is written as there."""
    kind, written = added_kind(token.literal, special=token.special), encode(token.literal)
    known = token_id < len(table) and table.kinds[token_id] == Kind.TEXT
    if known and kind == Kind.TEXT and table.tokens[token_id] == written.replace(_MARK, b" "):
        table.added.add(token_id)
    else:
        table.add(token_id, written, kind)


def _first_ids(table: TokenTable) -> dict[bytes, int]:
    """The lowest id of each token."""
    return {token: token_id for token_id, token in reversed(list(enumerate(table.tokens)))}


def _id_of(ids: dict[bytes, int], literal: str, next_id: int) -> int:
    """The first id of a literal; the next, which is then taken, if none has it."""
    written = encode(literal)
    known = ids.get(written, ids.get(written.replace(_MARK, b" ")))
    return ids.setdefault(written, next_id) if known is None else known
