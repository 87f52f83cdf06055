"""The files of a model folder that add tokens, say which are special, and what they are for."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import MAX_SIZE

from .byte_letters import encode

CONFIG_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
    "chat_template.jinja",
)
"""All that is read beside a tokenizer file."""

_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_ID_KEYS = ("eos_token_id", "bos_token_id", "pad_token_id")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
}

_MOST_BYTES = 2**27

_Parsed = TypeVar("_Parsed")


class AddedToken(NamedTuple):
    """A token that a folder adds to its model, or whose flags it changes."""

    literal: str
    flags: dict[str, bool]  # as in the `added_tokens` of a tokenizer.json

    @property
    def special(self) -> bool:
        """True if it is a control token."""
        return self.flags["special"]


@dataclass(frozen=True)
class FolderConfig:
    """The tokens and roles that a folder names, as transformers' AutoTokenizer understands it."""

    decoder: dict[int, AddedToken] = field(default_factory=dict)  # in id order
    named: dict[str, str] = field(default_factory=dict)  # `eos_token` -> its literal
    special: tuple[str, ...] = ()  # the literals of those named, and of further special ones
    ids: dict[str, list[int]] = field(default_factory=dict)  # `eos_token_id` -> ids
    chat_template: str = ""
    document: dict[str, Any] = field(default_factory=dict)  # all of tokenizer_config.json
    tokenizer_class: str = ""  # of transformers, without `Fast`; empty: not known


def read_config(folder: Path) -> FolderConfig:
    """Read the files beside a tokenizer; those that are missing say nothing.

    Raises:
        VocabularyError: one is damaged; the text names it, but not the folder.
    """
    config = _read(folder, "tokenizer_config.json", _tokenizer_config)
    if config.document.get("added_tokens_decoder") is None:  # else these two count for nothing
        legacy = _read(folder, "special_tokens_map.json", _tokenizer_config)
        config = replace(
            config,
            decoder=_read(folder, "added_tokens.json", _token_per_id),
            named=_in_order(config.named, legacy.named),
            special=(*config.special, *legacy.special),
        )
    ids = _read(folder, "config.json", _token_ids)
    ids |= _read(folder, "generation_config.json", _token_ids)
    special = tuple(dict.fromkeys([*config.named.values(), *config.special]))
    with _errors_name("chat_template.jinja"):
        template = _text(folder / "chat_template.jinja") or config.chat_template
    known = frozenset(special)
    decoder = {i: _marked(token, known) for i, token in sorted(config.decoder.items())}
    return replace(
        config,
        decoder=decoder,
        special=special,
        ids=ids,
        chat_template=template,
        tokenizer_class=config.tokenizer_class or _read(folder, "config.json", _tokenizer_class),
    )


def with_defaults(config: FolderConfig, defaults: dict[str, str]) -> FolderConfig:
    """A configuration with the special tokens of a class of tokenizers, unless it names others."""
    silent = {name: one for name, one in defaults.items() if name not in config.document}
    named = _in_order(silent | config.named, {})
    special = tuple(dict.fromkeys([*named.values(), *config.special]))
    return replace(config, named=named, special=special)


def flag_in(config: FolderConfig, name: str, *, default: bool | None) -> bool | None:
    """True, false or the default: a setting of tokenizer_config.json.

    Raises:
        VocabularyError: it is something else.
    """
    value = config.document.get(name)
    if not isinstance(value, bool | None):
        raise VocabularyError(f"tokenizer_config.json: {name} is {value!r:.60}")
    return default if value is None else value


def _in_order(named: dict[str, str], legacy: dict[str, str]) -> dict[str, str]:
    """Named tokens in the order in which the library adds them; the older file goes first."""
    both = legacy | named | {name: legacy[name] for name in _NAMED if name in legacy}
    return {name: both[name] for name in [*_NAMED, *both] if name in both}


def _read(folder: Path, name: str, parse: Callable[[dict[str, Any]], _Parsed]) -> _Parsed:
    with _errors_name(name):
        return parse(json_object(folder / name))


@contextmanager
def _errors_name(file: str) -> Iterator[None]:
    try:
        yield
    except VocabularyError as error:
        raise VocabularyError(f"{file}: {error}") from error


def _tokenizer_config(document: dict[str, Any]) -> FolderConfig:
    """The tokens of a tokenizer_config.json; a special_tokens_map.json has the same keys."""
    named = {name: _literal(name, document.get(name)) for name in _NAMED}
    for name, value in document.items():  # `image_token` and the like
        if name.endswith("_token") and name not in _NAMED and _is_token(value):
            named[name] = _literal(name, value)
    more = document.get("extra_special_tokens") or document.get("additional_special_tokens") or []
    if not isinstance(more, list | dict):
        raise VocabularyError(f"the extra special tokens are {more!r:.60}; expected a list")
    values = list(more.values()) if isinstance(more, dict) else more
    special = [_literal("an extra special token", value) for value in values]
    return FolderConfig(
        _decoder(document.get("added_tokens_decoder")),
        {name: literal for name, literal in named.items() if literal},
        tuple(filter(None, special)),
        chat_template=_chat_template(document.get("chat_template")),
        document=document,
        tokenizer_class=_tokenizer_class(document),
    )


def _tokenizer_class(document: dict[str, Any]) -> str:
    """The class that a tokenizer_config.json or a config.json names; the latter by its model."""
    named, model = document.get("tokenizer_class"), document.get("model_type")
    if isinstance(named, str):
        return named.removesuffix("Fast")
    return _CLASS_OF_MODEL.get(model, "") if isinstance(model, str) else ""


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


def _literal(name: str, value: object) -> str:
    """The literal of a special token, which is written as it is or as an object; or empty."""
    literal = value.get("content") if isinstance(value, dict) else value
    if literal is None and value is None:
        return ""
    if not isinstance(literal, str):
        raise VocabularyError(f"{name} is {value!r:.60}; expected a string")
    encode(literal)  # or it is refused
    return literal


def _decoder(decoder: object) -> dict[int, AddedToken]:
    if not isinstance(decoder, dict | None):
        raise VocabularyError(f"added_tokens_decoder is {decoder!r:.60}; expected an object")
    tokens = {}
    for token_id, entry in (decoder or {}).items():
        is_number = token_id.isascii() and token_id.isdecimal() and len(token_id) < 19
        tokens[_id(int(token_id) if is_number else token_id)] = _added_token(token_id, entry)
    return {token_id: token for token_id, token in tokens.items() if token.literal}


def _added_token(token_id: str, entry: object) -> AddedToken:
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise VocabularyError(f"added token {token_id} is {entry!r:.60}; expected an object")
    token = _with_flags(entry["content"], special=entry.get("special", False))
    flags = token.flags | {flag: entry[flag] for flag in _FLAGS if flag in entry}
    for flag, value in flags.items():
        if type(value) is not bool:
            raise VocabularyError(f"added token {token_id} has {flag} {value!r:.60}")
    return token._replace(flags=flags)


def _with_flags(literal: str, *, special: bool) -> AddedToken:
    """A token with the flags that the library gives it, where nothing else is said."""
    encode(literal)  # or it is refused
    return AddedToken(
        literal, {**dict.fromkeys(_FLAGS, False), "normalized": not special, "special": special}
    )


def _token_per_id(added_tokens: dict[str, Any]) -> dict[int, AddedToken]:
    return {
        _id(token_id): _with_flags(literal, special=False)
        for literal, token_id in added_tokens.items()
        if literal
    }


def _id(token_id: object) -> int:
    if type(token_id) is not int or not 0 <= token_id < MAX_SIZE:
        raise VocabularyError(f"an added token has the id {token_id!r:.60}; expected 0 or more")
    return token_id


def _marked(token: AddedToken, special: frozenset[str]) -> AddedToken:
    """A token as special if it is named so anywhere."""
    return token._replace(
        flags=token.flags | {"special": token.special or token.literal in special}
    )


def special_token(literal: str) -> AddedToken:
    """A special token of which nothing but the literal is known."""
    return _with_flags(literal, special=True)


def _token_ids(document: dict[str, Any]) -> dict[str, list[int]]:
    """The ids that end, begin and pad a text, by the key that names them."""
    found = {}
    for key in _ID_KEYS:
        value = document.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(token_id) is not int for token_id in ids):
            raise VocabularyError(f"{key} is {value!r:.60}; expected an id or a list of ids")
        if ids:
            found[key] = ids
    return found


def _chat_template(value: object) -> str:
    """One template, or all of several: a list of objects, or an object, of named ones."""
    several = list(value.values()) if isinstance(value, dict) else value
    several = several if isinstance(several, list) else [several or ""]
    written = [one.get("template") if isinstance(one, dict) else one for one in several]
    templates = [one for one in written if isinstance(one, str)]
    if len(templates) != len(written):
        raise VocabularyError(f"chat_template is {value!r:.60}; expected a string")
    return "\n".join(templates)


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file.

    Raises:
        VocabularyError: it is damaged; the text does not name the file.
    """
    text = _text(path)
    try:
        document = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"not JSON, or cut off: {error}") from error
    if not isinstance(document, dict):
        raise VocabularyError(f"expected an object, found a {type(document).__name__}")
    return document


def _text(path: Path) -> str:
    """The text of a file; empty where there is none."""
    if not path.exists():
        return ""
    if not path.is_file():
        raise VocabularyError("not a regular file")
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise VocabularyError(f"{size / 2**20:.0f} MiB is too large for a configuration")
        return path.read_text("utf-8")
    except OSError as error:
        raise VocabularyError(f"cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"not UTF-8: {error}") from error
