"""Instruction data: prompts with responses, from JSON Lines, JSON arrays and Parquet.

The format is recognised by a file's content, never by its name. Rows that cannot be used are
skipped and counted by reason.
"""

import codecs
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from io import BufferedReader
from itertools import islice
from os import PathLike
from typing import Any, NamedTuple, TypeVar

from cmc_runtime.errors import DataError
from pm_mined import OptionError, TextError
from pm_mined.json_lines import has_lone_surrogate, parse_line, read_lines

_PARQUET = b"PAR1"
_ARRAY = re.compile(rb'\s*\[\s*(?:[{"\]]|null\b)')  # not a text such as "[INST] ..."
_OBJECT = re.compile(rb'\s*\{\s*["}]')

_LAYOUTS = {"prompt": "response", "question": "answer", "instruction": "output"}
FIELDS = (*_LAYOUTS, *_LAYOUTS.values(), "input", "perturbed_answer", "paraphrased_answer")


class Example(NamedTuple):
    """A prompt and the response to it."""

    prompt: str
    response: str
    row: int
    """The place in the file, from 1: the line of JSON Lines, else the row."""
    perturbed: tuple[str, ...] = ()
    """False answers (TOFU)."""
    paraphrased: str | None = None
    """The response in other words (TOFU)."""


@dataclass
class Skipped:
    """Counts of skipped rows by reason; true if there are any.

    >>> skipped = Skipped()
    >>> for row in (17, 30):
    ...     skipped.add("without a response", row)
    >>> skipped.add("not JSON", 20)
    >>> print(skipped)
    3 rows skipped: 2 without a response (first: row 17), 1 not JSON (row 20)
    """

    counts: Counter[str] = field(default_factory=Counter)
    """The rows skipped for each reason."""
    first: dict[str, int] = field(default_factory=dict)
    """The first row skipped for each reason, from 1."""

    def add(self, reason: str, row: int) -> None:
        """Count a skipped row."""
        self.counts[reason] += 1
        self.first.setdefault(reason, row)

    def merge(self, others: "Skipped") -> None:
        """Add the counts of others; the first rows here stay first."""
        self.counts += others.counts
        self.first = others.first | self.first

    def to_json(self) -> dict[str, int]:
        """The number of rows for each reason."""
        return dict(self.counts)

    def __len__(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        parts = [
            f"{count:,} {reason} ({'first: ' if count > 1 else ''}row {self.first[reason]})"
            for reason, count in self.counts.items()
        ]
        return f"{len(self):,} row{'s' * (len(self) != 1)} skipped: {', '.join(parts)}"


@dataclass(frozen=True)
class Examples:
    """The usable rows of a file, at least one, in its order."""

    rows: list[Example]
    skipped: Skipped

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the prompts and responses in their order, in hexadecimal digits."""
        digest = sha256()
        for example in self.rows:
            for text in (example.prompt.encode(), example.response.encode()):
                digest.update(len(text).to_bytes(8, "little") + text)
        return digest.hexdigest()


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file, at least one, in its order."""

    texts: list[str]
    skipped: Skipped


def read_examples(path: str | PathLike[str], *, limit: int | None = None) -> Examples:
    """Read prompts with their responses, at most `limit` usable rows.

    The file is JSON Lines in UTF-8, a JSON array of objects, or Parquet. A row has the fields
    `prompt` and `response`; `question` and `answer` (TOFU); or `instruction` and `output`
    (Alpaca), where an `input` that is not blank follows the instruction after a blank line. The
    sentence that Alpaca puts before them is left out: the model's chat template takes its place.
    TOFU's `perturbed_answer` and `paraphrased_answer` are read where a row has them.

    Rows are skipped that are no objects, or in which a field is missing, blank, not text, or holds
    a lone surrogate. JSON Lines are read as far as the limit needs.

    Raises:
        DataError: the file cannot be read, is none of these, or has no usable row.
        OptionError: the limit is not a whole number, 1 or more.

    >>> examples = read_examples("alpaca.json", limit=1000)  # doctest: +SKIP
    >>> examples.rows[0].prompt  # doctest: +SKIP
    'Give three tips for staying healthy.'
    """
    needs = "prompt and response, question and answer, or instruction and output"
    return Examples(*_read(path, _rows, _example, limit, needs))


def read_prompts(path: str | PathLike[str], *, limit: int | None = None) -> Prompts:
    """Read prompts from rows as in `read_examples`, without responses, or from plain text.

    A file that begins neither like Parquet nor like JSON is plain text in UTF-8 with a prompt on
    each line; blank lines are left out. AlpacaEval's file of instructions can be read.

    Raises:
        DataError: the file cannot be read, or has no prompt.
        OptionError: the limit is not a whole number, 1 or more.
    """
    return Prompts(*_read(path, _rows_or_lines, _prompt, limit, "prompt, question or instruction"))


class _RowError(Exception):
    """The reason that a row cannot be used."""


_Usable = TypeVar("_Usable")
_Rows = Iterator[tuple[int, Any]]
"""Each row's number and its value, or an `_RowError` if it cannot be parsed."""


def _read(
    path: str | PathLike[str],
    rows_of: Callable[[BufferedReader], _Rows],
    use: Callable[[Any, int], _Usable],
    limit: int | None,
    needs: str,
) -> tuple[list[_Usable], Skipped]:
    if limit is not None and (type(limit) is not int or limit < 1):
        raise OptionError(f"limit is {limit!r}; expected a whole number of rows, 1 or more")
    count = None if limit is None else min(limit, sys.maxsize)
    skipped = Skipped()
    try:
        with open(path, "rb") as file:
            found = list(islice(_used(rows_of(file), use, skipped), count))
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or _first_line(error)}") from error
    except (DataError, TextError) as error:
        raise DataError(f"{path}: {error}") from error
    if not found:
        raise DataError(f"{path}: no usable row: {skipped or 'it is empty'}; a row needs {needs}")
    return found, skipped


def _used(rows: _Rows, use: Callable[[Any, int], _Usable], skipped: Skipped) -> Iterator[_Usable]:
    for number, value in rows:
        try:
            usable = use(value, number)
        except _RowError as reason:
            skipped.add(str(reason), number)
        else:
            yield usable


def _rows(file: BufferedReader) -> _Rows:
    head = _head(file)
    if head.startswith(_PARQUET):
        return _parquet(file)
    return _array(file) if _ARRAY.match(head) else _lines(file, _json)


def _rows_or_lines(file: BufferedReader) -> _Rows:
    head = _head(file)
    is_text = not (head.startswith(_PARQUET) or _ARRAY.match(head) or _OBJECT.match(head))
    return _lines(file, _plain) if is_text else _rows(file)


def _head(file: BufferedReader) -> bytes:
    """The first kilobytes of the file, which stay unread."""
    head = file.peek().removeprefix(codecs.BOM_UTF8)
    if b"\0" in head and not head.startswith(_PARQUET):
        raise DataError("neither text in UTF-8 nor Parquet")
    return head


def _lines(file: BufferedReader, parse: Callable[[bytes], Any]) -> _Rows:
    for number, line in read_lines(file):
        yield number, parse(line)


def _json(line: bytes) -> Any:
    try:
        return parse_line(line)
    except UnicodeDecodeError:
        return _RowError("not in UTF-8")
    except ValueError:
        return _RowError("not JSON")


def _plain(line: bytes) -> Any:
    try:
        return {"prompt": line.decode().rstrip("\r\n")}
    except UnicodeDecodeError:
        return _RowError("not in UTF-8")


def _array(file: BufferedReader) -> _Rows:
    try:
        values = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON array in UTF-8: {error}") from error
    yield from enumerate(values, start=1)


def _parquet(file: BufferedReader) -> _Rows:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        opened = ParquetFile(file)
        columns = [name for name in opened.schema_arrow.names if name in FIELDS]
        for batch in opened.iter_batches(1024, columns=columns):
            for value in batch.to_pylist():
                number += 1
                yield number, value
    except (pyarrow.ArrowException, ValueError) as error:  # ValueError: text that is not UTF-8
        raise DataError(f"damaged Parquet, after row {number}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _example(row: Any, number: int) -> Example:
    prompt = _prompt(row, number)
    response = _text(row.get(_LAYOUTS[_layout(row)]), "response")
    false, paraphrased = row.get("perturbed_answer"), row.get("paraphrased_answer")
    if not isinstance(false, list | None):
        raise _RowError("whose perturbed_answer is not a list")
    return Example(
        prompt,
        response,
        number,
        tuple(_text(one, "perturbed_answer") for one in false or ()),
        None if paraphrased is None else _text(paraphrased, "paraphrased_answer"),
    )


def _prompt(row: Any, number: int) -> str:  # noqa: ARG001 - as `_example`
    if isinstance(row, _RowError):
        raise row
    if not isinstance(row, dict):
        raise _RowError("not an object")
    layout = _layout(row)
    prompt = _text(row.get(layout), "prompt")
    more = row.get("input") if layout == "instruction" else None
    return prompt if _is_blank(more) else f"{prompt}\n\n{_text(more, 'input')}"


def _layout(row: dict[str, Any]) -> str:
    """The field of the prompt; one with a response beside it takes precedence."""
    present = [name for name in _LAYOUTS if row.get(name) is not None]
    with_response = [name for name in present if row.get(_LAYOUTS[name]) is not None]
    return [*with_response, *present, "prompt"][0]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: Any, what: str) -> str:
    if _is_blank(value):
        raise _RowError(f"without a {what}")
    if not isinstance(value, str):
        raise _RowError(f"whose {what} is not text")
    if has_lone_surrogate(value):
        raise _RowError("with a lone surrogate")
    return value
