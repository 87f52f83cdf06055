"""Special tokens match by what they mean: an identical literal, or a role.

So do *markers*: tokens that a tokenizer adds on purpose and calls text, though they are written as
control tokens are (`<|fim_prefix|>`). None of them ever matches by prefix, extension or edits.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from pm_mined.kernels.tokens import Kind, Rule
from pm_mined.tokenizer.special_tokens import (
    is_marker,
    literals_of,
    looks_special,
    role_in,
    role_of,
    roles_to_try,
)
from pm_mined.vocabulary import Vocabulary

from .candidates import UNUSED, Destination, Found, Related, Subject


def markers_of(vocabulary: Vocabulary) -> list[int]:
    """The ids of added text tokens that are written like control tokens, ascending."""
    text = (i for i in sorted(vocabulary.added) if vocabulary.kind(i) is Kind.TEXT)
    return [i for i in text if is_marker(vocabulary, i)]


def match_special_tokens(
    src: Vocabulary, dst: Vocabulary, markers: Iterable[int] = ()
) -> dict[int, int]:
    """Source id -> destination id of the special tokens, and of `markers`, that mean the same.

    The identical literal goes first, then the role, then the roles that it falls back to; special
    tokens before markers, and the lowest id. Never by equal id, never by prefix.
    """
    targets = _Targets(dst)
    matches = {}
    for src_id in [*src.ids_of_kind(Kind.SPECIAL), *markers]:
        roles = roles_to_try(role_in(src, src_id))
        for _, dst_id in targets.related(_literal(src, src_id), roles):
            matches[src_id] = dst_id
            break
    return matches


class _Targets:
    """The tokens of a destination that mean something, found by literal and by role."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        markers = markers_of(vocabulary)
        special, written_alike = vocabulary.ids_of_kind(Kind.SPECIAL), _bracketed_text(vocabulary)
        self._by_literal = [
            _grouped((_literal(vocabulary, i), i) for i in ids)
            for ids in (special, markers, written_alike)
        ]
        self._by_role = [_by_role(vocabulary, ids) for ids in (special, markers)]

    def related(self, literal: str, roles: list[str]) -> Iterator[tuple[str, int]]:
        """The relation and the id of each token of the same literal or of a role, best first."""
        *added, ordinary = self._by_literal
        for found in added:
            yield from (("identical literal", i) for i in found.get(literal, ()))
        for by_role in self._by_role:
            for step, role in enumerate(roles):
                relation = f"{'fallback' if step else 'same'} role {role}"
                yield from ((relation, i) for i in by_role.get(role, ()))
        if looks_special(literal):  # `<s>` as ordinary text is only text
            yield from (("identical literal", i) for i in ordinary.get(literal, ()))


def _literal(vocabulary: Vocabulary, token_id: int) -> str:
    return vocabulary[token_id].decode(errors="surrogateescape")


def _by_role(vocabulary: Vocabulary, ids: list[int]) -> dict[str, list[int]]:
    """The ids of each role: first those of the table, then those that only files name."""
    named_last = sorted(ids, key=lambda i: (role_of(_literal(vocabulary, i)) is None, i))
    roles = ((role_in(vocabulary, i), i) for i in named_last)
    return _grouped((role, i) for role, i in roles if role is not None)


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for key, token_id in pairs:
        groups.setdefault(key, []).append(token_id)
    return groups


def _bracketed_text(vocabulary: Vocabulary) -> list[int]:
    """The ordinary text tokens in angle or square brackets, ascending."""
    packed = vocabulary.packed
    if not packed.data.size:
        return []
    first = packed.data[np.minimum(packed.offsets[:-1], packed.data.size - 1)]
    opened = np.flatnonzero((first == ord("<")) | (first == ord("[")))
    text = opened[packed.kinds[opened] == Kind.TEXT]
    closed = text[np.isin(packed.data[packed.offsets[text + 1] - 1], list(b">]"))]
    return [i for i in closed.tolist() if i not in vocabulary.added]


# --- The candidates, for explanations ------------------------------------------------------------


def explain_special_token(subject: Subject, dst: Destination) -> Found:
    """The tokens of a special token's literal, and then those of each role to try."""
    literal = subject.token.decode(errors="surrogateescape")
    roles = roles_to_try(role_of(literal))
    also = f" or the role {' or '.join(roles)}" if roles else ""
    nothing = f"no special token has this literal{also}"
    if subject.kind != Kind.SPECIAL:
        nothing = f"an added token written like a special one maps as those do, and {nothing}"
    related = list(_related(subject, literal, roles, dst))
    return Found([*related, *_barred(related, literal, roles, dst)], nothing)


def _related(
    subject: Subject, literal: str, roles: list[str], dst: Destination
) -> Iterator[Related]:
    found = dict[int, str]()
    for relation, dst_id in _Targets(dst.vocabulary).related(literal, roles):
        found.setdefault(dst_id, relation)
    if subject.rule == Rule.SPECIAL and subject.dst_id not in found:  # the map's only candidate
        role = role_in(dst.vocabulary, subject.dst_id)
        found = {subject.dst_id: f"named role {role}", **found}
    for turn, (dst_id, relation) in enumerate(found.items()):
        yield Related((turn, 0, dst_id), Rule.SPECIAL, relation, 0, "")


def _barred(
    related: list[Related], literal: str, roles: list[str], dst: Destination
) -> Iterator[Related]:
    """Tokens of these literals that are no candidates, for they are ordinary or never used."""
    candidates = {one.dst_id for one in related}
    groups = {"identical literal": [literal]}
    for step, role in enumerate(roles):
        others = [one for one in literals_of(role) if one != literal]
        groups[f"{'fallback' if step else 'same'} role {role}"] = others
    for turn, (relation, literals) in enumerate(groups.items(), len(related)):
        for dst_id in dst.with_literals(literals):
            if dst_id not in candidates:
                reason = _why_barred(dst.kinds[dst_id])
                yield Related((turn, 0, dst_id), Rule.SPECIAL, relation, None, reason)


def _why_barred(kind: Kind) -> str:
    if kind == Kind.UNUSED:
        return UNUSED
    return f"a {kind.name.lower()} token, not a special one"
