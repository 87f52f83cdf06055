"""The objects of `pm-mined show --json`: rows, explanations and source tokens."""

from typing import Any

from pm_mined.display import token_json
from pm_mined.maps.lookup import Source, choices_of, sources_of
from pm_mined.maps.token_map import Row, TokenMap
from pm_mined.reports.explain import Candidate, Explanation


def row_document(
    token_map: TokenMap, row: Row, explanation: Explanation | None, limit: int
) -> dict[str, Any]:
    """One source token: its row, its choices, and why."""
    document = {**row.to_json(), "choices": _choices_document(token_map, row, explanation)}
    for key in ("by_rules", "why", "runners_up_count"):
        document[key] = getattr(explanation, key, None)
    encoding = explanation.encoding if explanation else None
    document["encoding"] = encoding and [token_document(i, token) for i, token in encoding]
    for key in ("runners_up", "nearest"):
        found = getattr(explanation, key, None)
        document[key] = None if found is None else [_candidate_document(one) for one in found]
    mapped = row.dst_id >= 0
    document["read_by"] = sources_document(token_map, row.dst_id, limit) if mapped else None
    return document


def _choices_document(
    token_map: TokenMap, row: Row, explanation: Explanation | None
) -> list[dict[str, Any]]:
    choices = choices_of(token_map, row.src_id)
    tokens: list[bytes | None] = [row.dst_token, *[None] * (len(choices) - 1)]
    if explanation is not None:
        tokens = [one.token for one in explanation.choices]
    return [
        {**token_document(i, token), "weight": weight}
        for (i, weight), token in zip(choices, tokens, strict=False)
    ]


def token_document(dst_id: int, token: bytes | None) -> dict[str, Any]:
    """A destination token; null where its bytes are not known."""
    unknown = {"dst_token": None, "dst_token_hex": None}
    return {"dst_id": dst_id, **(unknown if token is None else token_json("dst_token", token))}


def _candidate_document(one: Candidate) -> dict[str, Any]:
    return {**one._asdict(), **token_json("token", one.token)}


def sources_document(token_map: TokenMap, dst_id: int, limit: int) -> dict[str, Any]:
    """The source tokens that map to one destination token: how many, and the first `limit`."""
    found = sources_of(token_map, dst_id)
    return {
        "count": len(found),
        "first": [_source_document(token_map, one) for one in found[:limit]],
    }


def _source_document(token_map: TokenMap, source: Source) -> dict[str, Any]:
    """Rule and distance are those of a first choice, and null for any other."""
    row = token_map.row(source.src_id).to_json()
    keys = ("src_id", "src_token", "src_token_hex", "src_kind", "rule", "distance")
    document = {key: row[key] for key in keys}
    if source.place > 1:
        document |= {"rule": None, "distance": None}
    return {**document, "choice": source.place, "weight": source.weight}
