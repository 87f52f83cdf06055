"""WordPiece `vocab.txt`: a token per line, read as the tokenizer.json that BertTokenizer makes."""

import re
from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import TokenTable

from . import tokenizer_json
from .added_tokens import add_to_document
from .folder_config import FolderConfig, flag_in, with_defaults

_UNKNOWN_LINE = re.compile(rb"^\[UNK\]\r?$", re.MULTILINE)
_CONTINUATION = "##"
_TOKENIZERS = ("Bert", "DistilBert", "Electra", "MobileBert", "LayoutLM", "ConvBert", "SqueezeBert")
_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}


def is_word_piece(head: bytes) -> bool:
    """True if a file that begins with `head` has the line `[UNK]`, as no other format has."""
    return _UNKNOWN_LINE.search(head) is not None


def read(path: Path) -> TokenTable:
    """The vocabulary of a file alone."""
    return tokenizer_json.read_document(read_alone(path))


def read_alone(path: Path) -> dict[str, Any]:
    """The tokenizer.json of a file alone: of BERT's special tokens, it has those in the file.

    Raises:
        VocabularyError: the file is no WordPiece vocabulary.
    """
    document = _read(path, FolderConfig())
    known = {name: one for name, one in _SPECIAL.items() if one in document["model"]["vocab"]}
    return add_to_document(document, with_defaults(FolderConfig(), known))


def read_folder(path: Path, config: FolderConfig) -> dict[str, Any]:
    """The file with what its folder says: the special tokens, and how text is normalised.

    Raises:
        VocabularyError: it is damaged, or of another tokenizer than BERT's.
    """
    if config.tokenizer_class.removesuffix("Tokenizer") not in ("", *_TOKENIZERS):
        raise VocabularyError(
            f"a vocab.txt of a {config.tokenizer_class}, not of BERT's; saving the tokenizer again "
            "with transformers' AutoTokenizer writes a tokenizer.json"
        )
    return add_to_document(_read(path, config), with_defaults(config, _SPECIAL))


def _read(path: Path, config: FolderConfig) -> dict[str, Any]:
    """The tokenizer.json of a file, without its special tokens."""
    try:
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"a WordPiece vocabulary that is not UTF-8: {error}") from error
    tokens = {line.rstrip(): token_id for token_id, line in enumerate(lines)}
    if not any(token.startswith(_CONTINUATION) for token in tokens):
        raise VocabularyError(
            f"has a line [UNK], but no WordPiece token, which begins with {_CONTINUATION}"
        )
    model = {
        "type": "WordPiece",
        "vocab": tokens,
        "unk_token": config.named.get("unk_token", _SPECIAL["unk_token"]),
        "continuing_subword_prefix": _CONTINUATION,
        "max_input_chars_per_word": 100,
    }
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": flag_in(config, "tokenize_chinese_chars", default=True),
        "strip_accents": flag_in(config, "strip_accents", default=None),
        "lowercase": flag_in(config, "do_lower_case", default=True),
    }
    return {
        "model": model,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": _CONTINUATION, "cleanup": True},
        "added_tokens": [],
    }
