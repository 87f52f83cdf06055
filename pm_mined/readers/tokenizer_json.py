"""Hugging Face `tokenizer.json`: the model says which tokens, the decoder how they are written."""

from collections.abc import Callable, Iterable
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import encode, undo_byte_letters
from .sentencepiece import byte_of

# The WordPiece decoder with `cleanup` removes the space before these.
_NO_SPACE_BEFORE = frozenset({".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"})

_Decode = Callable[[list[str]], list[bytes]]


def read_document(document: dict[str, Any]) -> TokenTable:
    """The tokens of a parsed `tokenizer.json`, in canonical form."""
    try:
        vocab = _vocab(document["model"])
        steps = _decoder_steps(document.get("decoder"))
        table = TokenTable(max(vocab.values(), default=-1) + 1)
        _put_ordinary(table, vocab, _decode_function(steps))
        if document["model"].get("byte_fallback") or any(
            s["type"] == "ByteFallback" for s in steps
        ):
            _put_bytes(table, vocab)
        _put_unknown(table, vocab, document["model"])
        _put_added(table, vocab, document.get("added_tokens") or [])
    except (KeyError, TypeError, AttributeError) as error:
        raise VocabularyError(
            f"a damaged tokenizer.json: {type(error).__name__}: {error}"
        ) from error
    return table


def _vocab(model: dict[str, Any]) -> dict[str, int]:
    """Token -> id of the model; ids are checked."""
    kind = model.get("type") or _untagged_type(model)
    if kind == "Unigram":
        pairs: Iterable[tuple[str, int]] = ((piece[0], i) for i, piece in enumerate(model["vocab"]))
    elif kind in ("BPE", "WordPiece", "WordLevel"):
        pairs = model["vocab"].items()
    else:
        raise VocabularyError(
            f"model type {kind!r} is not supported (only BPE, Unigram, WordPiece and WordLevel)"
        )
    by_id: dict[int, str] = {}
    vocab: dict[str, int] = {}
    for token, token_id in pairs:
        if type(token_id) is not int or token_id < 0:
            raise VocabularyError(f"token {token!r} has id {token_id!r}; expected 0 or more")
        if token_id in by_id:
            raise VocabularyError(f"tokens {by_id[token_id]!r} and {token!r} share id {token_id}")
        by_id[token_id] = token
        vocab[token] = token_id
    return vocab


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


def _decode_function(steps: list[dict[str, Any]]) -> _Decode:
    """What turns the model's tokens into bytes, one step after the other."""
    byte_level = False
    rewrites: list[Callable[[str], str]] = []
    for step in steps:
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
        if token.startswith(prefix):
            return token[len(prefix) :]
        return token if cleanup and token in _NO_SPACE_BEFORE else " " + token

    return rewrite


def _put_ordinary(table: TokenTable, vocab: dict[str, int], decode: _Decode) -> None:
    text = int(Kind.TEXT)
    for token_id, token in zip(vocab.values(), decode(list(vocab)), strict=True):
        table.tokens[token_id] = token
        table.kinds[token_id] = text


def _put_bytes(table: TokenTable, vocab: dict[str, int]) -> None:
    """Byte fallback: the 256 tokens `<0x00>` to `<0xFF>` stand for their byte."""
    for byte in range(256):
        piece = f"<0x{byte:02X}>"
        if piece in vocab:
            table.put(vocab[piece], byte_of(piece), Kind.BYTE)


def _put_unknown(table: TokenTable, vocab: dict[str, int], model: dict[str, Any]) -> None:
    """The model's unknown token stands for what it cannot write: it is no text."""
    unknown = model.get("unk_token")
    token_id = model.get("unk_id") if unknown is None else vocab.get(unknown)
    if token_id is not None:
        literal = next(token for token, i in vocab.items() if i == token_id)
        table.put(token_id, encode(literal), Kind.SPECIAL)


def _put_added(table: TokenTable, vocab: dict[str, int], added: list[dict[str, Any]]) -> None:
    """Added tokens are matched in the text as they stand: their bytes are the literal.

    One that the model also knows, and that is not special, is already written as the model's.
    """
    for entry in added:
        token_id, literal = entry["id"], entry["content"]
        if type(token_id) is not int:
            raise VocabularyError(f"added token {literal!r} has id {token_id!r}")
        kind = added_kind(literal, special=entry["special"])
        if kind != Kind.TEXT or vocab.get(literal) != token_id:
            table.put(token_id, encode(literal), kind)
