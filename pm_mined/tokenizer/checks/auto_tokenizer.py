"""The special tokens of a model folder, held against those of transformers' AutoTokenizer."""

from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import NamedTuple

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.vocabulary import Vocabulary

from .compare import Difference

_NONE = "no special token"


class FolderCheck(NamedTuple):
    """The differences from an AutoTokenizer, if there is one, and what was left out, and why."""

    differences: list[Difference]
    name: str = ""
    notes: tuple[str, ...] = ()


def compare_with_auto_tokenizer(vocabulary: Vocabulary, folder: Path) -> FolderCheck:
    """Compare the ids and literals of all special tokens, less those that are ordinary text.

    What is special by the class of the tokenizer alone, and by no file, is a note.
    """
    if find_spec("transformers") is None:
        return FolderCheck([], notes=("not held against AutoTokenizer: transformers is not here",))
    try:
        with library_errors("not held against AutoTokenizer"):
            theirs, of_class = _special_tokens(folder)
    except VocabularyError as error:
        return FolderCheck([], notes=(str(error),))
    return _compare(vocabulary, theirs, of_class)


def _compare(vocabulary: Vocabulary, theirs: dict[int, str], of_class: set[str]) -> FolderCheck:
    ours = _literals(vocabulary, Kind.SPECIAL)
    ours |= {i: text for i, text in _literals(vocabulary, Kind.UNUSED).items() if i in theirs}
    differences, notes = list[Difference](), list[str]()
    for token_id in sorted({*ours, *theirs}):
        mine, other = ours.get(token_id, _NONE), theirs.get(token_id, _NONE)
        if mine == other or _is_ordinary(vocabulary, token_id):
            continue
        if mine == _NONE and other in of_class:
            notes.append(f"{other} ({token_id}) is special by AutoTokenizer's class, by no file")
        else:
            differences.append(Difference(token_id, mine, other))
    name = f"AutoTokenizer of transformers {version('transformers')}"
    return FolderCheck(differences, name, tuple(notes))


def _literals(vocabulary: Vocabulary, kind: Kind) -> dict[int, str]:
    return {i: vocabulary[i].decode(errors="replace") for i in vocabulary.ids_of_kind(kind)}


def _special_tokens(folder: Path) -> tuple[dict[int, str], set[str]]:
    """Id -> literal, by AutoTokenizer; and the literals that its class has by default."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    special = {i: one.content for i, one in tokenizer.added_tokens_decoder.items() if one.special}
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    options = signature(type(tokenizer).__init__).parameters.values()
    return special | named, {one.default for one in options if isinstance(one.default, str)}


def _is_ordinary(vocabulary: Vocabulary, token_id: int) -> bool:
    """True for white space and single bytes, which are text whatever a file calls them."""
    if token_id >= len(vocabulary):
        return False
    return vocabulary.kind(token_id) == Kind.BYTE or not vocabulary[token_id].strip()
