"""Maps as the three JSON files of Cross-model Control."""

import json
from collections.abc import Iterator

import numpy as np

from pm_mined.kernels.tokens import UNMAPPED, Kind, Rule
from pm_mined.maps.arrow_columns import column_values
from pm_mined.maps.token_map import TokenMap

from .columns import Contents, is_same_token, refuse_several, tokens_of

CMC_ENDINGS = ("_token.json", "_match.json", "_id.json")


def cmc_json(token_map: TokenMap) -> Contents:
    """The contents of the files that end in `CMC_ENDINGS`."""
    refuse_several(token_map, "cmc-json")
    dst_of: dict[str, str | None] = {}
    for src, dst in _pieces(token_map):
        if src:
            dst_of.setdefault(src, dst)
    same = is_same_token(token_map).astype(int).tolist()
    documents = (dst_of, same, token_map.dst_id.tolist())
    return [json.dumps(made, indent=4).encode() for made in documents]


def _pieces(token_map: TokenMap) -> Iterator[tuple[str, str | None]]:
    """Source and destination token of each row as SentencePiece writes them; None if unmapped."""
    kinds = column_values(token_map.column("src_kind"))
    rule = token_map.rule
    changed = (rule == Rule.BYTE) & (kinds != Kind.BYTE)
    dst_kinds = np.where(changed | ((rule == Rule.EXACT) & (kinds == Kind.BYTE)), Kind.BYTE, 0)
    dst_kinds[rule == Rule.SPECIAL] = Kind.SPECIAL
    src = map(_piece, tokens_of(token_map, "src_token"), kinds.tolist())
    dst = map(_piece, tokens_of(token_map, "dst_token"), dst_kinds.tolist())
    for src_piece, dst_piece, dst_id in zip(src, dst, token_map.dst_id.tolist(), strict=True):
        yield src_piece, None if dst_id == UNMAPPED else dst_piece


def _piece(token: bytes, kind: int) -> str:
    if kind != Kind.BYTE:
        try:
            return token.decode() if kind == Kind.SPECIAL else token.decode().replace(" ", "▁")
        except UnicodeDecodeError:
            pass  # a piece of a character, which SentencePiece writes as its bytes
    return "".join(map("<0x{:02X}>".format, token))
