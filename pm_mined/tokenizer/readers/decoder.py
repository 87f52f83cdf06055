"""The decoder of a `tokenizer.json`: how its steps write a token in the middle of a text."""

import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.errors_of_libraries import library_errors

from .byte_letters import refuse_surrogates, undo_byte_letters
from .growth import growth_of

# What WordPiece and CTC decoders with `cleanup` replace, in this order.
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

# The library parses what stands after `<0x` as a number, which may have a sign.
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")

_MOST_BYTES = 2**28  # of all tokens as they are written

# What stands before and after a token where a step sees the whole text.
_NEIGHBOUR = "ꙮ"

# Surrogate escapes are no text for the library: it sees letters that no text has.
_FROM_ESCAPES = {0xDC00 + byte: 0xFFE00 + byte for byte in range(0x80, 0x100)}
_TO_ESCAPES = {letter: escape for escape, letter in _FROM_ESCAPES.items()}

_Rewrite = Callable[[str], str]


class Written(NamedTuple):
    """Tokens as a decoder writes them."""

    tokens: list[bytes]
    byte_places: list[int]  # the places of byte pieces such as `<0x0A>`, which ByteFallback undid


class _Step(NamedTuple):
    """A step of a decoder; a fused one works on the whole text, and not on each token."""

    fields: dict[str, Any]
    fused: bool

    @property
    def kind(self) -> str:
        return str(self.fields["type"])


def write(decoder: dict[str, Any] | None, tokens: Sequence[str]) -> Written:
    r"""Write each token as the decoder does if other tokens stand before and after it.

    Without a decoder, tokens stand for themselves. Between two steps, a byte that is no
    character by itself is a surrogate escape, as in file names.

    Raises:
        VocabularyError: the library has no such step, or a token is not text.

    >>> write({"type": "BPEDecoder", "suffix": "</w>"}, ["a</w>", "a"]).tokens
    [b'a ', b'a']
    >>> write({"type": "ByteFallback"}, ["a", "<0xFF>"])
    Written(tokens=[b'a', b'\xff'], byte_places=[1])
    """
    refuse_surrogates(tokens)
    steps = _steps(decoder)
    _check_size(steps, tokens)
    ends_in_byte_level = bool(steps) and steps[-1].kind == "ByteLevel"
    last = len(steps) - ends_in_byte_level
    written, byte_places = _rewritten(steps[:last], list(tokens))
    if ends_in_byte_level:
        return Written(undo_byte_letters(written), byte_places)
    return Written([token.encode(errors="surrogateescape") for token in written], byte_places)


def _rewritten(steps: list[_Step], tokens: list[str]) -> tuple[list[str], list[int]]:
    """The tokens after the steps, and the places of byte pieces."""
    byte_places, dropped = list[int](), list[int]()
    for step in steps:
        if step.kind == "ByteFallback":
            byte_places += _undo_byte_pieces(tokens)
        elif step.kind == "ByteLevel":
            tokens = [_with_escapes(token) for token in undo_byte_letters(tokens)]
        else:
            tokens = list(map(_rewrite(step), tokens))
        if step.kind == "CTC":  # later steps do not see a token that it leaves empty
            dropped += [place for place, token in enumerate(tokens) if not token]
    for place in dropped:
        tokens[place] = ""
    return tokens, byte_places


def _check_size(steps: list[_Step], tokens: Sequence[str]) -> None:
    size = growth_of(step.fields for step in steps) * 4 * sum(map(len, tokens))
    if size > _MOST_BYTES and steps:
        raise VocabularyError(
            f"its decoder can make up to {size / 2**30:,.1f} GiB of its tokens, more than a "
            "vocabulary has: the file is damaged, or made to do harm"
        )


def _steps(decoder: dict[str, Any] | None) -> list[_Step]:
    """The steps one after the other, less those that do nothing in the middle of a text."""
    steps, fused = list[_Step](), False
    for fields in _flat(decoder):
        kind = fields["type"]
        if kind != "Fuse" and not (fused and kind in ("ByteFallback", "Strip")):
            steps.append(_Step(fields, fused))
        fused = fused or kind in ("Fuse", "ByteLevel")
    return steps


def _flat(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for one in decoder["decoders"] for step in _flat(one)]


def _with_escapes(token: bytes) -> str:
    return token.decode(errors="surrogateescape")


def _undo_byte_pieces(tokens: list[str]) -> list[int]:
    """Replace byte pieces by their bytes; their places are returned."""
    places = [
        place
        for place, token in enumerate(tokens)
        if len(token) == 6 and token[0] == "<" and _BYTE_PIECE.fullmatch(token)
    ]
    for place in places:
        tokens[place] = _with_escapes(bytes([int(tokens[place][3:5], 16)]))
    return places


def _rewrite(step: _Step) -> _Rewrite:
    """The function that does a step to one token."""
    make = _REWRITES.get(step.kind)
    if make is None:
        known = ", ".join(sorted({*_REWRITES, "ByteFallback", "ByteLevel", "Fuse", "Sequence"}))
        raise VocabularyError(f"decoder {step.kind!r} is not supported (only {known})")
    return make(step)


def _metaspace(step: _Step) -> _Rewrite:
    """A mark is a space; as the first token, which a fused text is, it loses all of its marks."""
    mark = _character(step.fields["replacement"])
    lost = step.fused and step.fields.get("prepend_scheme", "always") != "never"
    space = "" if lost and step.fields.get("add_prefix_space") is not False else " "
    return lambda token: token.replace(mark, space)


def _replace(step: _Step) -> _Rewrite:
    pattern, content = step.fields["pattern"], step.fields["content"]
    if literal := pattern.get("String"):
        return lambda token: token.replace(literal, content)
    return _replace_by_library(step)


def _replace_by_library(step: _Step) -> _Rewrite:
    """A regular expression of the library's own kind."""
    from tokenizers import Regex, decoders

    pattern, content = step.fields["pattern"], step.fields["content"]
    with library_errors(f"decoder Replace by {pattern}"):
        expression = Regex(pattern["Regex"]) if "Regex" in pattern else pattern["String"]
        library = decoders.Replace(expression, content)
    around = _NEIGHBOUR if step.fused else ""

    def rewrite(token: str) -> str:
        letters = token.translate(_FROM_ESCAPES)
        with library_errors(f"decoder Replace by {pattern}"):
            written = library.decode([around + letters + around]).translate(_TO_ESCAPES)
        if not written.startswith(around) or not written.endswith(around):
            raise VocabularyError(
                f"decoder Replace by {pattern} after Fuse changes what stands beside a token: "
                "how a token is written depends on its neighbours"
            )
        return written[len(around) : len(written) - len(around)]

    return rewrite


def _strip(step: _Step) -> _Rewrite:
    letter = _character(step.fields["content"])
    most_left, most_right = (_amount(step.fields[edge]) for edge in ("start", "stop"))

    def rewrite(token: str) -> str:
        rest = token[_count(letter, token[:most_left]) :]
        return rest[: len(rest) - _count(letter, rest[: -most_right - 1 : -1])]

    return rewrite


def _count(letter: str, letters: str) -> int:
    """The number of times that `letters` begins with `letter`."""
    return sum(1 for _ in takewhile(letter.__eq__, letters))


def _amount(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise VocabularyError(f"a decoder strips {value!r} characters: expected 0 or more")
    return value


def _character(value: str) -> str:
    if len(value) != 1:
        raise VocabularyError(f"a decoder's {value[:40]!r} is not one character")
    return value


def _word_piece(step: _Step) -> _Rewrite:
    """A token without the continuation prefix starts a word: it is written with a space."""
    prefix, cleanup = step.fields["prefix"], step.fields["cleanup"]

    def rewrite(token: str) -> str:
        if not step.fused:
            token = token[len(prefix) :] if token.startswith(prefix) else " " + token
        return _clean_up(token) if cleanup else token

    return rewrite


def _bpe(step: _Step) -> _Rewrite:
    """A suffix ends a word; as the last token, which a fused text is, it loses its suffixes."""
    suffix, space = step.fields["suffix"], "" if step.fused else " "
    return lambda token: token.replace(suffix, space)


def _ctc(step: _Step) -> _Rewrite:
    pad, delimiter = step.fields["pad_token"], step.fields["word_delimiter_token"]
    if not step.fields["cleanup"]:
        return lambda token: token.replace(pad, "")
    return lambda token: _clean_up(token.replace(pad, "")).replace(delimiter, " ")


def _clean_up(token: str) -> str:
    for pattern, content in _CLEANUP:
        token = token.replace(pattern, content)
    return token


_REWRITES: dict[str, Callable[[_Step], _Rewrite]] = {
    "BPEDecoder": _bpe,
    "CTC": _ctc,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
    "WordPiece": _word_piece,
}
