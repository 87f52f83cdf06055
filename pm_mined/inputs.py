"""No output is an input: what a command reads, it does not replace."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from os import PathLike
from pathlib import Path

from .errors import PmMinedError

# What models and tokenizers are read from; maps and pictures may lie beside them.
_OF_MODELS = (".bin", ".gguf", ".jinja", ".json", ".model", ".safetensors", ".tiktoken", ".txt")

Name = str | PathLike[str]


def refuse_inputs(outputs: Iterable[Name | None], inputs: Iterable[Name | None]) -> None:
    """Make sure that no output is a file that is read, by whatever name or link.

    A folder among the inputs stands for the files of a model in it, and `-` for the standard
    input. What does not exist, or is None, is no file.

    Raises:
        PmMinedError: an output is an input.
    """
    read = [(name, about) for one in inputs for name, about in _files(one)]
    for output in outputs:
        for about in _status(output):
            for name, other in read:
                if os.path.samestat(about, other):
                    same = "" if str(name) == str(output) else f", the same file as {name}"
                    raise PmMinedError(
                        f"{output}: is read here{same}, and would be replaced: name another file "
                        "for the output"
                    )


def _files(name: Name | None) -> Iterator[tuple[Name, os.stat_result]]:
    """The files that an input stands for, each by its name."""
    if name is not None and os.path.isdir(name):
        names = [path for path in Path(name).iterdir() if path.suffix in _OF_MODELS]
        yield from ((path, about) for path in names for about in _status(path))
    else:
        yield from ((name or "", about) for about in _status(name))


def _status(name: Name | None) -> list[os.stat_result]:
    """The status of a file, where there is one."""
    with suppress(OSError, ValueError):  # a missing file, or no name of one
        return [os.fstat(0) if name == "-" else os.stat(name or "")]
    return []
