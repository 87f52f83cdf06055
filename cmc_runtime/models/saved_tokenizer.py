"""Tokenizers in folders, written so that they are quickly read, and come back as they are."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

_DEFAULTS = ("model_input_names", "model_max_length", "padding_side", "truncation_side")


def save_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write a fast tokenizer of transformers.

    Raises:
        ValueError: it would not come back as it is.
    """
    tokenizer.save_pretrained(folder)
    # Without its spaces, which are two thirds of it.
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {name: getattr(tokenizer, name) for name in _DEFAULTS}
    config["tokenizer_class"] = PreTrainedTokenizerFast.__name__
    path.write_text(json.dumps(config), "utf-8")
    if tokenizer_state(read_saved_tokenizer(folder)) != tokenizer_state(tokenizer):
        raise ValueError("its tokenizer would not come back as it is")


def read_saved_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder to which `save_tokenizer` wrote it; it is parsed once.

    `AutoTokenizer` parses it up to three times, and builds it again from what it found: 4 s for the
    262,144 tokens of Gemma. A tokenizer's own class adds but defaults, which the folder has.
    """
    known: dict[str, Any] = {"added_tokens_decoder": {}}  # else the file is parsed for them
    return PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False, **known)


def tokenizer_state(tokenizer: Any) -> tuple[Any, ...]:
    """All by which a tokenizer works."""
    defaults = [getattr(tokenizer, name) for name in _DEFAULTS]
    about = tokenizer.special_tokens_map, tokenizer.chat_template, defaults
    return tokenizer.backend_tokenizer.to_str(), *about
