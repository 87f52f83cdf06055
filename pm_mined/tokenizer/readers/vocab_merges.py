"""`vocab.json` and `merges.txt`: byte-level BPE of GPT-2, RoBERTa or Qwen, as a tokenizer.json."""

from pathlib import Path
from typing import Any, NamedTuple

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.special_tokens import splitting

from .added_tokens import add_to_document
from .folder_config import FolderConfig, flag_in, json_object, with_defaults


class _Kind(NamedTuple):
    """A tokenizer of transformers, with the special tokens that it has unless told otherwise."""

    special: dict[str, str]
    family: str | None = None  # whose text is split likewise; None: as GPT-2 does


def _end_of_text(*names: str) -> dict[str, str]:
    return {f"{name}_token": "<|endoftext|>" for name in names}


_ROBERTA = _Kind(
    {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"}
    | {"pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}
)
_KINDS = {
    "GPT2": _Kind(_end_of_text("bos", "eos", "unk")),
    "Qwen2": _Kind(_end_of_text("eos", "unk", "pad"), "qwen2_5"),
    **dict.fromkeys(["Roberta", "Bart", "Longformer", "LED"], _ROBERTA),
}


def read_folder(path: Path, config: FolderConfig) -> dict[str, Any]:
    """The tokenizer.json of a vocab.json, of the merges.txt beside it and of their folder.

    Raises:
        VocabularyError: a file is damaged, or of another tokenizer.
    """
    kind = _KINDS.get(config.tokenizer_class.removesuffix("Tokenizer"))
    if kind is None:
        of = f"of a {config.tokenizer_class}" if config.tokenizer_class else "of no known class"
        raise VocabularyError(
            f"a vocab.json {of} (read are those of {', '.join(_KINDS)}); saving the tokenizer "
            "again with transformers' AutoTokenizer writes a tokenizer.json"
        )
    letters = {
        "type": "ByteLevel",
        "add_prefix_space": flag_in(config, "add_prefix_space", default=False),
        "trim_offsets": True,
        "use_regex": kind.family is None,
    }
    document: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": _vocab(path), "merges": _merges(path.parent)},
        "normalizer": {"type": "NFC"} if kind.family else None,
        "pre_tokenizer": _splitting(kind.family, letters),
        "decoder": letters,
        "added_tokens": [],
    }
    return add_to_document(document, with_defaults(config, kind.special))


def _splitting(family: str | None, letters: dict[str, Any]) -> dict[str, Any]:
    if family is None:
        return letters
    pattern, _ = splitting(family)
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, letters]}


def _vocab(path: Path) -> dict[str, int]:
    vocab = json_object(path)
    for token, token_id in vocab.items():
        if type(token_id) is not int or token_id < 0:
            raise VocabularyError(f"token {token!r:.60} has id {token_id!r:.60}")
    return vocab


def _merges(folder: Path) -> list[list[str]]:
    path = folder / "merges.txt"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise VocabularyError(f"{path.name}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path.name}: not UTF-8: {error}") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    merges = [line.rstrip("\r").split(" ") for line in lines if not line.startswith("#version")]
    for number, merge in enumerate(merges, 1):
        if len(merge) != 2:
            raise VocabularyError(f"{path.name}: merge {number} is {' '.join(merge)!r:.60}")
    return merges
