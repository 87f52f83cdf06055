"""Hugging Face `tokenizer.json`: the model says which tokens, the decoder how they are written."""

from collections.abc import Mapping
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.vocabulary import TokenTable

from .byte_letters import encode
from .decoder import write
from .tokenizer_json_added import as_stored, number, put_added_tokens

_Json = dict[str, Any]


def read_document(document: _Json) -> TokenTable:
    """The tokens of a parsed `tokenizer.json`, in canonical form."""
    try:
        return _read(document)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, ValueError) as error:
        raise VocabularyError(
            f"a damaged tokenizer.json: {type(error).__name__}: {error}"
        ) from error


def _read(document: _Json) -> TokenTable:
    model = document["model"]
    tokens = _model_tokens(model)
    ids = _model_ids(model)
    decoder = _decoder(document)
    _check_marks(model, tokens, decoder)
    table = TokenTable(max(tokens, default=-1) + 1)
    _put_ordinary(table, tokens, decoder)
    unknown_id = _put_unknown(table, tokens, ids, model)
    entries = document.get("added_tokens") or []
    added = number(entries, ids, len(tokens))
    stored = as_stored(entries, document.get("normalizer"))
    texts = [stored[entry["content"]] for entry in added.values()]
    put_added_tokens(table, added, write(decoder, texts), unknown_id)
    return table


def _model_tokens(model: _Json) -> dict[int, str]:
    """Id -> token of the model; ids are checked."""
    kind = _type_of(model)
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


def _model_ids(model: _Json) -> dict[str, int]:
    """Token -> id of the model; of equal tokens the last, as the library has it."""
    if isinstance(vocab := model["vocab"], dict):
        return vocab
    return {piece[0]: token_id for token_id, piece in enumerate(vocab)}


def _type_of(model: _Json) -> str:
    """Old files leave the type out; each model has fields that no other has."""
    if model.get("type"):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _decoder(document: _Json) -> _Json | None:
    """The decoder of the file, or that of its model, where there is only one.

    Raises:
        VocabularyError: there is none, and the tokens hold letters that only a decoder undoes.
    """
    decoder: _Json | None = document.get("decoder")
    if decoder is not None:
        return decoder
    if letters := _letters_of(document):
        raise VocabularyError(
            f"no decoder, though {letters} writes spaces or bytes as other letters: the file does "
            "not say how its tokens are written; set the decoder that belongs to it and save again"
        )
    model = document["model"]
    if _type_of(model) == "WordPiece":
        prefix = model.get("continuing_subword_prefix", "##")
        return {"type": "WordPiece", "prefix": prefix, "cleanup": False}
    return None


def _letters_of(document: _Json) -> str:
    """The step before the model that writes text in letters of its own; empty without one."""
    for name in ("normalizer", "pre_tokenizer"):
        for step in steps_of(document.get(name)):
            marks = step["type"] == "Replace" and step["pattern"].get("String") == " "
            if marks or step["type"] in ("ByteLevel", "Metaspace"):
                return f"the {name} {step['type']}"
    return ""


def steps_of(step: _Json | None) -> list[_Json]:
    """A normalizer or pre-tokenizer as a list of its steps."""
    if step is None:
        return []
    inner = step.get("normalizers") or step.get("pretokenizers")
    return [step] if inner is None else [one for part in inner for one in steps_of(part)]


def _check_marks(model: _Json, tokens: Mapping[int, str], decoder: _Json | None) -> None:
    """Refuse marks of a word's inside or end that the decoder leaves in tokens: no text has them.

    Raises:
        VocabularyError: there are some.
    """
    probes = dict[str, str]()
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    if prefix and any(token.startswith(prefix) for token in tokens.values()):
        probes[prefix] = f"{prefix}a"
    if suffix and any(token.endswith(suffix) for token in tokens.values()):
        probes[suffix] = f"a{suffix}"
    for mark, written in zip(probes, write(decoder, [*probes.values()]).tokens, strict=True):
        if mark in written.decode(errors="replace"):
            raise VocabularyError(
                f"the model marks tokens by {mark!r}, which the decoder leaves in them: the file "
                "does not say how they are written; set a WordPiece decoder or a BPEDecoder that "
                "belongs to it, and save again"
            )


def _put_ordinary(table: TokenTable, tokens: dict[int, str], decoder: _Json | None) -> None:
    written, byte_places = write(decoder, list(tokens.values()))
    text = int(Kind.TEXT)
    for token_id, token in zip(tokens, written, strict=True):
        table.tokens[token_id] = token
        table.kinds[token_id] = text
    ids = list(tokens) if byte_places else []
    for place in byte_places:
        if len(written[place]) == 1:
            table.kinds[ids[place]] = int(Kind.BYTE)


def _put_unknown(
    table: TokenTable, tokens: dict[int, str], ids: dict[str, int], model: _Json
) -> int | None:
    """The model's unknown token stands for what it cannot write: it is no text."""
    unknown = model.get("unk_token")
    token_id: int | None = model.get("unk_id") if unknown is None else ids.get(unknown)
    if token_id is None:
        return None
    if token_id not in tokens:
        raise VocabularyError(f"the unknown token has id {token_id!r}, which no token has")
    table.put(token_id, encode(tokens[token_id]), Kind.SPECIAL)
    return token_id
