"""Wrong inputs: one seed, changed in the way of its format."""

import json
import shutil
from pathlib import Path
from random import Random

import pyarrow as pa

from .mutations import NASTY, as_json, change_bytes, change_document, change_lines

_LINES = {".toml", ".tiktoken", ".txt", ".jsonl"}


def change(random: Random, path: Path) -> None:
    """Change a file, or in a folder one of its files."""
    if path.is_dir():
        _change_folder(random, path)
    elif path.suffix == ".arrow" and random.random() < 0.6:
        _change_map(random, path)
    else:
        path.write_bytes(_changed(random, path.suffix, path.read_bytes()))


def _changed(random: Random, suffix: str, content: bytes) -> bytes:
    if suffix == ".json" and random.random() < 0.85:
        return as_json(random, change_document(random, json.loads(content)))
    if suffix in _LINES and random.random() < 0.7:
        return change_lines(random, content)
    return change_bytes(random, content)


def _change_folder(random: Random, folder: Path) -> None:
    """Change a file of it, take it away, or put something else in its place."""
    path = random.choice(sorted(folder.iterdir()))
    what = random.choice(["change"] * 6 + ["remove", "folder", "link", "pointer"])
    if what == "change":
        return change(random, path)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(random.choice([path.name, "nowhere", "/dev/zero", "."]))
    elif what == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return None


def _change_map(random: Random, path: Path) -> None:
    """Change a column, the metadata, or how the file is written."""
    table = pa.ipc.open_file(path).read_all()
    options = pa.ipc.IpcWriteOptions(compression=random.choice([None, None, "zstd", "lz4"]))
    what = random.choice(["values", "values", "metadata", "metadata", "columns"])
    if what == "metadata":
        table = _change_metadata(random, table)
    elif what == "columns":
        table = table.select(random.choices(table.column_names, k=random.randint(0, 9)))
    else:
        table = _change_column(random, table)
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema, options=options) as to,
    ):
        to.write_table(table, max_chunksize=random.choice([None, None, 7]))


def _change_metadata(random: Random, table: pa.Table) -> pa.Table:
    document = json.loads(table.schema.metadata[b"pm_mined"])
    return table.replace_schema_metadata(
        {"pm_mined": as_json(random, change_document(random, document))}
    )


def _change_column(random: Random, table: pa.Table) -> pa.Table:
    """One value of a column another one, a null, or the whole column of another type."""
    at = random.randrange(table.num_columns)
    column, field = table.column(at).combine_chunks(), table.schema.field(at)
    values = column.to_pylist()
    values[random.randrange(len(values))] = random.choice([None, *NASTY])
    kind = random.choice([column.type] * 4 + [pa.int64(), pa.float32(), pa.large_binary()])
    try:
        changed = pa.array(values, type=kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
        changed = pa.nulls(len(values), column.type)
    return table.set_column(at, pa.field(field.name, changed.type), changed)
