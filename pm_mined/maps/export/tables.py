"""Maps as tables: CSV and Parquet."""

import csv
import io
from itertools import pairwise
from typing import Any

import numpy as np

from pm_mined.display import display_token
from pm_mined.kernels.tokens import Choices
from pm_mined.maps.token_map import TokenMap

from .columns import Contents, metadata_json, names_of, tokens_of


def csv_table(token_map: TokenMap) -> Contents:
    """A CSV file with the tokens as displayed and in hexadecimal digits."""
    columns: dict[str, list[Any]] = {
        "src_id": list(range(len(token_map))),
        "dst_id": token_map.dst_id.tolist(),
        "rule": names_of(token_map, "rule"),
        "distance": token_map.distance.tolist(),
        "src_kind": names_of(token_map, "src_kind"),
    }
    shown: dict[bytes, str] = {}  # most tokens stand on both sides
    for side in ("src_token", "dst_token"):
        tokens = tokens_of(token_map, side)
        for token in tokens:
            if token not in shown:
                shown[token] = _cell(display_token(token))
        columns[side] = [shown[token] for token in tokens]
        columns[f"{side}_hex"] = [token.hex() for token in tokens]
    if token_map.choices is not None:
        columns["choices"] = _choices_as_text(token_map.choices)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return [text.getvalue().encode()]


def _cell(text: str) -> str:
    """`text` as a spreadsheet shows it, where one that begins so would be a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _choices_as_text(choices: Choices) -> list[str]:
    """`id:weight id:weight` for each source token, or `id id` without weights."""
    shown = [str(dst_id) for dst_id in choices.dst_id.tolist()]
    if choices.weight is not None:
        distinct, code = np.unique(choices.weight, return_inverse=True)
        digits = [str(weight) for weight in distinct]  # the fewest that identify a float32
        shown = [f"{one}:{digits[i]}" for one, i in zip(shown, code.tolist(), strict=True)]
    return [" ".join(shown[start:stop]) for start, stop in pairwise(choices.offsets.tolist())]


def parquet_table(token_map: TokenMap) -> Contents:
    """A Parquet file of all columns."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = token_map.to_arrow()
    schema = rows.schema.with_metadata({"pm_mined": metadata_json(token_map)})
    table = pa.Table.from_arrays(rows.columns, schema=schema)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return [memoryview(sink.getvalue())]
