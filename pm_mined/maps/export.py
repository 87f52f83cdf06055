"""Maps in the formats of other programs; docs/export.md gives the exact layout of each."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.atomic_file import write_atomically
from pm_mined.display import display_token
from pm_mined.errors import MapFileError, PmMinedError
from pm_mined.kernels.tokens import UNMAPPED, Choices, Kind, Rule

from .arrow_columns import column_values, packed_tokens
from .token_map import TokenMap

Contents = dict[str, bytes | memoryview]
"""The content of each file of an export, by the end of its name; programs open the last first."""


class Format(NamedTuple):
    """A format: the names of an export's files, and their contents."""

    file_name: str  # with the name of the map for {}
    contents: Callable[[TokenMap], Contents]

    def default_path(self, map_file: Path) -> Path:
        """The default file name of an export, in the current folder.

        >>> FORMATS["csv"].default_path(Path("maps/a-to-b.arrow"))
        PosixPath('a-to-b.csv')
        """
        return Path(self.file_name.format(map_file.stem))


def export_map(token_map: TokenMap, name: str, path: str | PathLike[str]) -> list[Path]:
    """Write a map in the format `name`; the same map gives the same bytes.

    `path` is the file; for `cmc-json`, which writes three, it is the start of their names.
    Returns the files. Of the three, `_id.json` is removed first and written last, and the other
    two are not used without it, so new and old files are never mixed.

    Raises:
        MapFileError: the map is damaged, or a file cannot be written.
        PmMinedError: there is no such format.
    """
    if name not in FORMATS:
        raise PmMinedError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    if name == "cmc-json" and "one2one" not in Path(path).name:
        raise MapFileError(
            f"{path}: the code of CMC reads one id per token only from files whose names begin "
            f"with one2one: try -o {Path(path).parent / 'one2one'}_{Path(path).name}"
        )
    contents = FORMATS[name].contents(token_map)
    files = {Path(f"{os.fspath(path)}{ending}"): content for ending, content in contents.items()}
    _write_set(files)
    return list(files)


def _write_set(files: dict[Path, bytes | memoryview]) -> None:
    """Write files of which the last is opened first: while it is absent, none of them is used."""
    *others, first_opened = files
    if others and first_opened.is_file():
        with _reporting(first_opened):
            os.unlink(os.path.realpath(first_opened))
    half = f"; without {first_opened} the others are not read: export again" if others else ""
    for file, content in files.items():
        with _reporting(file, half):
            write_atomically(file, content)


@contextmanager
def _reporting(file: Path, consequence: str = "") -> Iterator[None]:
    """Turn an OSError into a MapFileError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise MapFileError(f"{file}: cannot write the export: {reason}{consequence}") from error


def is_same_token(token_map: TokenMap) -> NDArray[np.bool_]:
    """True where both tokens stand for the same text: bool [source ids].

    That is so for the rules `special`, `exact` and `byte`, and for an override of a special token
    or by a token with the same bytes.
    """
    same = (token_map.rule > Rule.OVERRIDE) & (token_map.rule <= Rule.BYTE)
    by_hand = (token_map.rule == Rule.OVERRIDE) & (token_map.dst_id != UNMAPPED)
    for src_id in np.flatnonzero(by_hand).tolist():
        row = token_map.row(src_id)
        same[src_id] = row.src_kind == "special" or row.src_token == row.dst_token
    return same


def _metadata(token_map: TokenMap) -> str:
    return token_map.info.to_json().decode()


def _tokens(token_map: TokenMap, column: str) -> list[bytes]:
    return packed_tokens(token_map.column(column)).tolist()


def _names(token_map: TokenMap, column: str) -> list[str]:
    names = token_map.names(column)
    return [names[code] for code in column_values(token_map.column(column)).tolist()]


def _refuse_several(token_map: TokenMap, name: str) -> None:
    """Refuse a map in which a token has several destination tokens."""
    count = int((token_map.choice_counts > 1).sum())
    if count:
        raise MapFileError(
            f"{name} holds one destination token for each source token, and {count:,} of this map "
            "have several: build a map with --strategy pm-mined or first-token"
        )


def _choice_arrays(token_map: TokenMap) -> dict[str, NDArray[Any]]:
    """The choices as arrays of a sparse matrix (CSR); empty for a map without choices."""
    if token_map.choices is None:
        return {}
    offsets, dst_id, weight = token_map.choices
    arrays = {"choice_offsets": offsets, "choice_dst_id": dst_id}
    return arrays if weight is None else arrays | {"choice_weight": weight}


# --- Tables --------------------------------------------------------------------------------------


def _csv(token_map: TokenMap) -> Contents:
    columns: dict[str, list[Any]] = {
        "src_id": list(range(len(token_map))),
        "dst_id": token_map.dst_id.tolist(),
        "rule": _names(token_map, "rule"),
        "distance": token_map.distance.tolist(),
        "src_kind": _names(token_map, "src_kind"),
    }
    shown: dict[bytes, str] = {}  # most tokens stand on both sides
    for side in ("src_token", "dst_token"):
        tokens = _tokens(token_map, side)
        for token in tokens:
            if token not in shown:
                shown[token] = display_token(token)
        columns[side] = [shown[token] for token in tokens]
        columns[f"{side}_hex"] = [token.hex() for token in tokens]
    if token_map.choices is not None:
        columns["choices"] = _choices_as_text(token_map.choices)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return {"": text.getvalue().encode()}


def _choices_as_text(choices: Choices) -> list[str]:
    """`id:weight id:weight` for each source token, or `id id` without weights."""
    shown = [str(dst_id) for dst_id in choices.dst_id.tolist()]
    if choices.weight is not None:
        distinct, code = np.unique(choices.weight, return_inverse=True)
        digits = [str(weight) for weight in distinct]  # the fewest that identify a float32
        shown = [f"{one}:{digits[i]}" for one, i in zip(shown, code.tolist(), strict=True)]
    return [" ".join(shown[start:stop]) for start, stop in pairwise(choices.offsets.tolist())]


def _parquet(token_map: TokenMap) -> Contents:
    import pyarrow as pa
    from pyarrow import parquet

    rows = token_map.to_arrow()
    schema = rows.schema.with_metadata({"pm_mined": _metadata(token_map)})
    table = pa.Table.from_arrays(rows.columns, schema=schema)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return {"": memoryview(sink.getvalue())}


# --- Arrays --------------------------------------------------------------------------------------


def _npz(token_map: TokenMap) -> Contents:
    arrays: dict[str, NDArray[Any]] = {
        "dst_id": token_map.dst_id,
        "rule": token_map.rule,
        "distance": token_map.distance,
        "src_kind": column_values(token_map.column("src_kind")),
        "rule_names": np.array(token_map.names("rule")),
        "src_kind_names": np.array(token_map.names("src_kind")),
        "metadata": np.array(_metadata(token_map)),
        **_choice_arrays(token_map),
    }
    for side in ("src_token", "dst_token"):
        packed = packed_tokens(token_map.column(side))
        arrays[f"{side}_data"], arrays[f"{side}_offsets"] = packed.data, packed.offsets
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return {"": file.getbuffer()}


def _safetensors(token_map: TokenMap) -> Contents:
    columns = ("dst_id", "rule", "distance")
    tensors = {name: getattr(token_map, name) for name in columns}
    return _tensors(token_map, tensors | _choice_arrays(token_map))


def assistant_to_target(token_map: TokenMap) -> NDArray[np.int64]:
    """The map for assisted generation in transformers: int64 [source ids], -1 is suppressed.

    The source is the assistant, the destination the target. A target token has one assistant
    token at most: the one found by the lowest rule, and of several the lowest id.
    """
    same = np.flatnonzero(is_same_token(token_map))
    by_rule = same[np.argsort(token_map.rule[same], kind="stable")]
    _, first = np.unique(token_map.dst_id[by_rule], return_index=True)
    target_of = np.full(len(token_map), UNMAPPED, np.int64)
    target_of[by_rule[first]] = token_map.dst_id[by_rule[first]]
    return target_of


def _assistant_to_target(token_map: TokenMap) -> Contents:
    _refuse_several(token_map, "assistant-to-target")
    return _tensors(token_map, {"assistant_to_target_input_ids": assistant_to_target(token_map)})


def _tensors(token_map: TokenMap, tensors: dict[str, NDArray[Any]]) -> Contents:
    from safetensors.numpy import save

    # One entry only: the library writes several in another order each time.
    return {"": save(tensors, {"pm_mined": _metadata(token_map)})}


# --- The files of Cross-model Control ------------------------------------------------------------


def _cmc_json(token_map: TokenMap) -> Contents:
    _refuse_several(token_map, "cmc-json")
    dst_of: dict[str, str | None] = {}
    for src, dst in _pieces(token_map):
        if src:
            dst_of.setdefault(src, dst)
    documents = {
        "_token.json": dst_of,
        "_match.json": is_same_token(token_map).astype(int).tolist(),
        "_id.json": token_map.dst_id.tolist(),
    }
    return {ending: json.dumps(made, indent=4).encode() for ending, made in documents.items()}


def _pieces(token_map: TokenMap) -> Iterator[tuple[str, str | None]]:
    """Source and destination token of each row as SentencePiece writes them; None if unmapped."""
    kinds = column_values(token_map.column("src_kind"))
    rule = token_map.rule
    changed = (rule == Rule.BYTE) & (kinds != Kind.BYTE)
    dst_kinds = np.where(changed | ((rule == Rule.EXACT) & (kinds == Kind.BYTE)), Kind.BYTE, 0)
    dst_kinds[rule == Rule.SPECIAL] = Kind.SPECIAL
    src = map(_piece, _tokens(token_map, "src_token"), kinds.tolist())
    dst = map(_piece, _tokens(token_map, "dst_token"), dst_kinds.tolist())
    for src_piece, dst_piece, dst_id in zip(src, dst, token_map.dst_id.tolist(), strict=True):
        yield src_piece, None if dst_id == UNMAPPED else dst_piece


def _piece(token: bytes, kind: int) -> str:
    if kind != Kind.BYTE:
        try:
            return token.decode() if kind == Kind.SPECIAL else token.decode().replace(" ", "▁")
        except UnicodeDecodeError:
            pass  # a piece of a character, which SentencePiece writes as its bytes
    return "".join(map("<0x{:02X}>".format, token))


FORMATS = {
    "csv": Format("{}.csv", _csv),
    "parquet": Format("{}.parquet", _parquet),
    "npz": Format("{}.npz", _npz),
    "safetensors": Format("{}.safetensors", _safetensors),
    "assistant-to-target": Format("{}.assistant-to-target.safetensors", _assistant_to_target),
    "cmc-json": Format("one2one_{}", _cmc_json),
}
