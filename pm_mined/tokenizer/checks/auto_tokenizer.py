"""The special tokens of a model folder, held against those of transformers' AutoTokenizer."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.library_errors import library_errors
from pm_mined.vocabulary import Vocabulary

from .compare import Difference


class FolderCheck(NamedTuple):
    """The differences from an AutoTokenizer; its name, or the reason for which there is none."""

    differences: list[Difference]
    name: str = ""
    reason: str = ""


def compare_with_auto_tokenizer(vocabulary: Vocabulary, folder: Path) -> FolderCheck:
    """Compare the ids and literals of all special tokens, less those that are ordinary text."""
    if find_spec("transformers") is None:
        return FolderCheck([], reason="not held against AutoTokenizer: transformers is not here")
    try:
        with library_errors("not held against AutoTokenizer"):
            theirs = _special_tokens(folder)
    except VocabularyError as error:
        return FolderCheck([], reason=str(error))
    ours = {
        token_id: vocabulary[token_id].decode(errors="replace")
        for token_id in vocabulary.ids_of_kind(Kind.SPECIAL) + sorted(theirs)
        if token_id < len(vocabulary)
    }
    differences = [
        Difference(token_id, ours.get(token_id, ""), theirs.get(token_id, "no special token"))
        for token_id in sorted({*ours, *theirs})
        if ours.get(token_id) != theirs.get(token_id) and not _is_ordinary(vocabulary, token_id)
    ]
    return FolderCheck(differences, f"AutoTokenizer of transformers {version('transformers')}")


def _special_tokens(folder: Path) -> dict[int, str]:
    """Id -> literal, by AutoTokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    special = {i: one.content for i, one in tokenizer.added_tokens_decoder.items() if one.special}
    return special | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _is_ordinary(vocabulary: Vocabulary, token_id: int) -> bool:
    """True for white space and single bytes, which are text whatever a file calls them."""
    if token_id >= len(vocabulary):
        return False
    return vocabulary.kind(token_id) == Kind.BYTE or not vocabulary[token_id].strip()
