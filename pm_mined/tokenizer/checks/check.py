"""`check_vocabulary`: each id's canonical bytes against what the tokenizer's library writes."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.load import load_vocabulary
from pm_mined.tokenizer.locate import locate
from pm_mined.tokenizer.objects import Spec, save_tokenizer
from pm_mined.vocabulary import SavedTokenizer, Vocabulary

from .auto_tokenizer import compare_with_auto_tokenizer
from .compare import Comparison, Difference
from .libraries import Library, load_library, of_sentencepiece, of_tokenizer_json


class Check(NamedTuple):
    """The outcome of a check.

    Attributes:
        vocabulary: The vocabulary that was checked.
        libraries: The names and versions of what it was held against.
        checked: The number of ids that were compared.
        differences: The ids that are written otherwise, ascending.
        unchecked: The ids that cannot be compared, by the reason.
        notes: What was not compared as in a text, and why.
    """

    vocabulary: Vocabulary
    libraries: list[str]
    checked: int
    differences: list[Difference]
    unchecked: dict[str, list[int]]
    notes: list[str]


def check_vocabulary(spec: Spec, ids: Iterable[int] | None = None) -> Check:
    """Hold a vocabulary against its own library: what that writes for each id inside a text.

    Ordinary tokens are written between two others, and pieces of characters with the bytes that
    complete them. Special tokens are compared by their literal; in a model folder, where
    transformers is installed, also with those of its AutoTokenizer. `ids` are all by default.

    Raises:
        VocabularyError: the tokenizer or its library cannot be found or used.

    >>> check = check_vocabulary("deepseek")  # doctest: +SKIP
    >>> check.checked, check.differences  # doctest: +SKIP
    (128802, [])
    """
    vocabulary = load_vocabulary(spec)
    library, folder = _library_of(spec)
    comparison = Comparison(vocabulary, library)
    wanted = list(range(max(len(vocabulary), library.size)) if ids is None else ids)
    comparison.compare(wanted)
    checked = len(wanted) - sum(map(len, comparison.unchecked.values()))
    made = Check(
        vocabulary=vocabulary,
        libraries=[library.name],
        checked=checked,
        differences=comparison.differences,
        unchecked=dict(comparison.unchecked),
        notes=[library.note] if library.note else [],
    )
    return made if folder is None else _with_folder(made, folder)


def _library_of(spec: Spec) -> tuple[Library, Path | None]:
    """The library that has loaded a tokenizer, and the model folder that it is in, if any."""
    if isinstance(spec, str | PathLike):
        found = locate(spec)
        return load_library(found), found.folder
    return _in_memory(save_tokenizer(spec)), None


def _in_memory(saved: SavedTokenizer) -> Library:
    with library_errors(f"{saved.name}: its library cannot use it"):
        if isinstance(saved.content, bytes):
            return of_sentencepiece(saved.content)
        return of_tokenizer_json(saved.content)


def _with_folder(check: Check, folder: Path) -> Check:
    """A check with what AutoTokenizer has for the folder, or why that is not known."""
    found = compare_with_auto_tokenizer(check.vocabulary, folder)
    known = {one.token_id for one in check.differences}
    more = [one for one in found.differences if one.token_id not in known]
    return check._replace(
        libraries=check.libraries + [found.name] * bool(found.name),
        differences=sorted(check.differences + more),
        notes=[*check.notes, *found.notes],
    )
