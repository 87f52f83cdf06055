"""A vocabulary in canonical form: for each id its bytes and its kind."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from os import PathLike
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .display import printable
from .errors import VocabularyError
from .kernels.tokens import Kind, PackedTokens, pack
from .notebook import html_table

MAX_SIZE = 2**22
"""More ids than any vocabulary has; a file that claims more is damaged."""

MAX_TOKEN_BYTES = 2**12
"""More bytes than any token has, of which 128 are known; edit distance takes the square of them."""

_BLOCK = 1000  # tokens


class TokenTable:
    """The bytes and the kind of each id, filled in by a reader; ids start out unused.

    Readers call every ordinary token `TEXT`; `Vocabulary.from_tokens` tells text from
    fragments by looking at the bytes. `added` and `roles` are those of `Vocabulary`.
    """

    def __init__(self, size: int) -> None:
        self.tokens: list[bytes] = []
        self.kinds = bytearray()
        self.added: set[int] = set()
        self.roles: dict[int, str] = {}
        self._grow(size)

    def _grow(self, size: int) -> None:
        if size > MAX_SIZE:
            raise VocabularyError(f"token id {size - 1} is out of range (at most {MAX_SIZE - 1})")
        more = size - len(self.tokens)
        self.tokens += [b""] * more
        self.kinds += bytes([Kind.UNUSED]) * more

    def __len__(self) -> int:
        return len(self.tokens)

    def put(self, token_id: int, token: bytes, kind: Kind) -> None:
        """Set one id, growing the table if need be."""
        if token_id < 0:
            raise VocabularyError(f"token id {token_id} is negative")
        if token_id >= len(self.tokens):
            self._grow(token_id + 1)
        self.tokens[token_id] = token
        self.kinds[token_id] = kind

    def add(self, token_id: int, token: bytes, kind: Kind) -> None:
        """Set one id that was added to the model's vocabulary on purpose, as control tokens are."""
        self.put(token_id, token, kind)
        self.added.add(token_id)


def is_utf8(token: bytes) -> bool:
    """True if bytes are whole characters."""
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


class SavedTokenizer(NamedTuple):
    """A tokenizer in memory: the text of a `tokenizer.json`, or the bytes of a SentencePiece model.

    `name` is what its vocabulary is called. `named` are special tokens by what they are named
    (`eos_token` and its literal), which say what these are for, as the chat template does.
    """

    content: str | bytes
    name: str
    named: tuple[tuple[str, str], ...] = ()
    chat_template: str = ""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A vocabulary in canonical form; make one with `load_vocabulary` or `from_tokens`.

    `packed` lays the tokens end to end: `data` uint8 [bytes], `offsets` int64 [ids + 1] and
    `kinds` uint8 [ids]. `tokenizer` is what `load_vocabulary` was given, so that
    `load_encoder` can load the tokenizer, too; a vocabulary that was made of tokens has none.

    Two things decide which special tokens match, and are no part of the `fingerprint`: `added`,
    the ids of tokens that the tokenizer adds to its model's on purpose, and `roles`, what the
    files of the tokenizer say that a token is for (`eos_token` and the like). A role is one of
    `data/special_tokens.toml`.

    >>> toy = Vocabulary.from_tokens([b"a", b" b", b"<s>"], [Kind.TEXT, Kind.TEXT, Kind.SPECIAL])
    >>> len(toy), toy[1], toy.kind(2).name
    (3, b' b', 'SPECIAL')
    """

    name: str
    source: str
    packed: PackedTokens
    tokenizer: str | PathLike[str] | SavedTokenizer | None = None
    added: frozenset[int] = frozenset()
    roles: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def from_tokens(
        cls,
        tokens: Sequence[bytes],
        kinds: Sequence[int],
        *,
        name: str = "custom",
        source: str = "memory",
        added: Iterable[int] = (),
        roles: Mapping[int, str] | None = None,
    ) -> "Vocabulary":
        """Canonicalise one token and one kind per id.

        `TEXT` and `FRAGMENT` are told apart by whether the bytes are valid UTF-8. A token
        without bytes writes nothing, so there is nothing to match: it becomes `UNUSED`.
        """
        if len(tokens) != len(kinds):
            raise VocabularyError(f"{len(tokens)} tokens, but {len(kinds)} kinds")
        packed = pack(tokens, np.array(bytearray(kinds), np.uint8))
        checked, lengths = packed.kinds, np.diff(packed.offsets)
        _check_sizes(name, lengths)
        ordinary = (checked == Kind.TEXT) | (checked == Kind.FRAGMENT)
        broken = np.zeros(len(tokens), bool)
        broken[_broken(tokens)] = True
        checked[ordinary] = np.where(broken[ordinary], Kind.FRAGMENT, Kind.TEXT)
        checked[ordinary & (lengths == 0)] = Kind.UNUSED
        wrong = np.flatnonzero((checked > Kind.UNUSED) | ((checked == Kind.BYTE) & (lengths != 1)))
        for i in wrong[:1]:
            raise VocabularyError(f"token {i} ({tokens[i][:40]!r}) cannot be of kind {checked[i]}")
        return cls(name, source, packed, added=frozenset(added), roles=dict(roles or {}))

    def __len__(self) -> int:
        return len(self.packed.kinds)

    def __repr__(self) -> str:
        return f"Vocabulary({printable(self.name)}, {len(self):,} tokens)"

    def _repr_html_(self) -> str:
        kinds = [(kind, f"{count:,}") for kind, count in self.kind_counts.items() if count]
        return html_table(repr(self), [*kinds, ("source", self.source)])

    def __getitem__(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self):
            raise IndexError(f"{self.name} has no id {token_id} (0 to {len(self) - 1})")
        start, stop = self.packed.offsets[token_id : token_id + 2]
        return self.packed.data[start:stop].tobytes()

    def kind(self, token_id: int) -> Kind:
        """The kind of one token."""
        return Kind(self.packed.kinds[token_id])

    def find(self, token: bytes) -> list[int]:
        """The ids of all tokens with these bytes, of whatever kind, ascending."""
        return self._ids.get(token, []) if token else []

    def nearest(self, text: str, count: int = 3) -> list[int]:
        """The ids of the tokens that are spelled most like `text`, for hints; ties by id.

        >>> toy = Vocabulary.from_tokens([b"colour", b"x"], [Kind.TEXT, Kind.TEXT])
        >>> toy.nearest("color", count=1)
        [0]
        """
        from rapidfuzz import fuzz, process

        literals = {
            token_id: token.decode(errors="replace")
            for token_id, token in enumerate(self.packed.tolist())
            if token
        }
        found = process.extract(text, literals, scorer=fuzz.ratio, limit=count)
        return [token_id for _, _, token_id in found]

    @cached_property
    def _ids(self) -> dict[bytes, list[int]]:
        ids: dict[bytes, list[int]] = {}
        for token_id, token in enumerate(self.packed.tolist()):
            ids.setdefault(token, []).append(token_id)
        return ids

    def ids_of_kind(self, kind: Kind) -> list[int]:
        """All ids of one kind, ascending."""
        return [int(i) for i in np.flatnonzero(self.packed.kinds == kind)]

    @cached_property
    def kind_counts(self) -> dict[str, int]:
        """The number of ids of each kind."""
        counts = np.bincount(self.packed.kinds, minlength=len(Kind)).tolist()
        return {kind.name.lower(): counts[kind] for kind in Kind}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over (id, kind, bytes) of all ids; docs/map-format.md gives the exact bytes."""
        digest = hashlib.sha256(b"pm-mined vocabulary 1\n")
        digest.update(np.int64(len(self)).astype("<i8").tobytes())
        digest.update(self.packed.kinds.tobytes())
        digest.update(self.packed.offsets.astype("<i8", copy=False).tobytes())
        digest.update(self.packed.data.tobytes())
        return digest.hexdigest()


def _broken(tokens: Sequence[bytes]) -> list[int]:
    """The ids of the tokens that are not whole characters; most blocks of tokens have none."""
    starts = range(0, len(tokens), _BLOCK)
    some = [i for i in starts if not is_utf8(b"\n".join(tokens[i : i + _BLOCK]))]
    ids = chain.from_iterable(range(i, min(i + _BLOCK, len(tokens))) for i in some)
    return [i for i in ids if not is_utf8(tokens[i])]


def _check_sizes(name: str, lengths: NDArray[np.int64]) -> None:
    """Refuse too many tokens, and too long ones."""
    if len(lengths) > MAX_SIZE:
        raise VocabularyError(f"{name}: {len(lengths):,} tokens (at most {MAX_SIZE:,})")
    for i in np.flatnonzero(lengths > MAX_TOKEN_BYTES)[:1]:
        size = f"{lengths[i]:,} bytes (at most {MAX_TOKEN_BYTES:,})"
        raise VocabularyError(f"{name}: not a vocabulary: token {i} has {size}")
