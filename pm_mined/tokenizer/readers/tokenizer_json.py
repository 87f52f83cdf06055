"""Hugging Face `tokenizer.json`: the model says which tokens, the decoder how they are written."""

from collections.abc import Callable
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import encode, undo_byte_letters
from .sentencepiece import byte_of, is_byte_piece

# What the WordPiece decoder with `cleanup` replaces, in this order.
_CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)

_Decode = Callable[[list[str]], list[bytes]]


def read_document(document: dict[str, Any]) -> TokenTable:
    """The tokens of a parsed `tokenizer.json`, in canonical form."""
    try:
        model = document["model"]
        tokens = _model_tokens(model)
        ids = {token: token_id for token_id, token in tokens.items()}
        steps = _decoder_steps(document.get("decoder"))
        _check_decoder(document, steps)
        table = TokenTable(max(tokens, default=-1) + 1)
        _put_ordinary(table, tokens, _decode_function(steps))
        if model.get("byte_fallback") or any(step["type"] == "ByteFallback" for step in steps):
            _put_bytes(table, tokens)
        _put_unknown(table, tokens, ids, model)
        _put_added(table, ids, document.get("added_tokens") or [])
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise VocabularyError(
            f"a damaged tokenizer.json: {type(error).__name__}: {error}"
        ) from error
    return table


def _model_tokens(model: dict[str, Any]) -> dict[int, str]:
    """Id -> token of the model; ids are checked."""
    kind = model.get("type") or _untagged_type(model)
    if kind == "Unigram":
        return {token_id: str(piece[0]) for token_id, piece in enumerate(model["vocab"])}
    if kind not in ("BPE", "WordPiece", "WordLevel"):
        raise VocabularyError(
            f"model type {kind!r} is not supported (only BPE, Unigram, WordPiece and WordLevel)"
        )
    tokens: dict[int, str] = {}
    for token, token_id in model["vocab"].items():
        if type(token_id) is not int or token_id < 0:
            raise VocabularyError(f"token {token!r} has id {token_id!r}; expected 0 or more")
        if token_id in tokens:
            raise VocabularyError(f"tokens {tokens[token_id]!r} and {token!r} share id {token_id}")
        tokens[token_id] = token
    return tokens


def _untagged_type(model: dict[str, Any]) -> str:
    """Old files leave the type out; each model has fields that no other has."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _decoder_steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The decoder as a flat list; after `Fuse`, steps work on the text and not on tokens."""
    steps: list[dict[str, Any]] = []
    if decoder is None:
        return steps
    if decoder["type"] != "Sequence":
        return [decoder]
    for step in decoder["decoders"]:
        if step["type"] == "Fuse":
            break
        steps += _decoder_steps(step)
    return steps


def _check_decoder(document: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    """Refuse what the decoder alone would leave in a form that no text has."""
    suffix = document["model"].get("end_of_word_suffix")
    if suffix and all(step["type"] != "BPEDecoder" for step in steps):
        raise VocabularyError(
            f"end_of_word_suffix {suffix!r} without a BPEDecoder is not supported: the file does "
            "not say how it is written"
        )
    before = document.get("pre_tokenizer") or {}
    kinds = {one["type"] for one in [before, *before.get("pretokenizers", [])] if one}
    if not steps and kinds & {"ByteLevel", "Metaspace"}:
        raise VocabularyError(
            f"no decoder, though the pre-tokenizer is {', '.join(sorted(kinds))}: the file does "
            "not say how its tokens are written"
        )


def _decode_function(steps: list[dict[str, Any]]) -> _Decode:
    """The function that turns the model's tokens into bytes, one step after the other."""
    rewrites: list[Callable[[str], str]] = []
    byte_level = False
    for step in steps:
        if byte_level:
            raise VocabularyError(f"decoder {step['type']!r} after ByteLevel is not supported")
        if step["type"] == "ByteLevel":
            byte_level = True
        elif step["type"] != "ByteFallback":
            rewrites.append(_rewrite(step))

    def decode(tokens: list[str]) -> list[bytes]:
        for rewrite in rewrites:
            tokens = [rewrite(token) for token in tokens]
        return undo_byte_letters(tokens) if byte_level else [encode(token) for token in tokens]

    return decode


def _rewrite(step: dict[str, Any]) -> Callable[[str], str]:
    """One decoder step on one token; the word before it is taken to be there."""
    if step["type"] == "Metaspace":
        mark = step["replacement"]
        return lambda token: token.replace(mark, " ")
    if step["type"] == "Replace" and "String" in step["pattern"]:
        pattern, content = step["pattern"]["String"], step["content"]
        return lambda token: token.replace(pattern, content)
    if step["type"] == "WordPiece":
        return _word_piece(step["prefix"], cleanup=step["cleanup"])
    if step["type"] == "BPEDecoder":
        suffix = step["suffix"]
        return lambda token: token.replace(suffix, " ")
    name = "Replace by regular expression" if step["type"] == "Replace" else step["type"]
    raise VocabularyError(
        f"decoder {name!r} is not supported (only ByteLevel, ByteFallback, Metaspace, "
        "Replace of a string, WordPiece, BPEDecoder, Fuse, and Sequences of them)"
    )


def _word_piece(prefix: str, *, cleanup: bool) -> Callable[[str], str]:
    """A token without the continuation prefix starts a word: it is written with a space."""

    def rewrite(token: str) -> str:
        written = token[len(prefix) :] if token.startswith(prefix) else " " + token
        for pattern, content in _CLEANUP if cleanup else ():
            written = written.replace(pattern, content)
        return written

    return rewrite


def _put_ordinary(table: TokenTable, tokens: dict[int, str], decode: _Decode) -> None:
    text = int(Kind.TEXT)
    for token_id, token in zip(tokens, decode(list(tokens.values())), strict=True):
        table.tokens[token_id] = token
        table.kinds[token_id] = text


def _put_bytes(table: TokenTable, tokens: dict[int, str]) -> None:
    """Byte fallback: tokens such as `<0x0A>` stand for their byte."""
    for token_id, token in tokens.items():
        if is_byte_piece(token):
            table.put(token_id, byte_of(token), Kind.BYTE)


def _put_unknown(
    table: TokenTable, tokens: dict[int, str], ids: dict[str, int], model: dict[str, Any]
) -> None:
    """The model's unknown token stands for what it cannot write: it is no text."""
    unknown = model.get("unk_token")
    token_id = model.get("unk_id") if unknown is None else ids.get(unknown)
    if token_id is None:
        return
    if token_id not in tokens:
        raise VocabularyError(f"the unknown token has id {token_id!r}, which no token has")
    table.put(token_id, encode(tokens[token_id]), Kind.SPECIAL)


def _put_added(table: TokenTable, ids: dict[str, int], added: list[dict[str, Any]]) -> None:
    """Added tokens are matched in the text as they stand: their bytes are the literal.

    One that the model also knows, and that is not special, is already written as the model's.
    """
    seen: dict[int, str] = {}
    for entry in added:
        token_id, literal = entry["id"], entry["content"]
        if type(token_id) is not int:
            raise VocabularyError(f"added token {literal!r} has id {token_id!r}")
        if seen.setdefault(token_id, literal) != literal:
            raise VocabularyError(
                f"added tokens {seen[token_id]!r} and {literal!r} share id {token_id}"
            )
        kind = added_kind(literal, special=entry["special"])
        if kind != Kind.TEXT or ids.get(literal) != token_id:
            table.put(token_id, encode(literal), kind)
        table.added.add(token_id)
