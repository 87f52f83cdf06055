"""Special tokens match by what they mean: a role, or an identical literal."""

from collections.abc import Iterator

from pm_mined.kernels.tokens import Kind, Rule
from pm_mined.tokenizer.special_tokens import literals_of, role_of, roles_to_try
from pm_mined.vocabulary import Vocabulary

from .candidates import UNUSED, Destination, Found, Related, Subject


def match_special_tokens(src: Vocabulary, dst: Vocabulary) -> dict[int, int]:
    """Source id -> destination id of the special tokens that mean the same.

    By role first; among several of one role the identical literal, else the lowest id. A
    token without a role matches its identical literal. Never by equal id, never by prefix.
    """
    by_literal: dict[str, int] = {}
    by_role: dict[str, int] = {}
    for dst_id in dst.ids_of_kind(Kind.SPECIAL):
        literal = dst[dst_id].decode(errors="surrogateescape")
        by_literal.setdefault(literal, dst_id)
        if role := role_of(literal):
            by_role.setdefault(role, dst_id)
    matches = {}
    for src_id in src.ids_of_kind(Kind.SPECIAL):
        literal = src[src_id].decode(errors="surrogateescape")
        found = [by_role[role] for role in roles_to_try(role_of(literal)) if role in by_role]
        if literal in by_literal:
            matches[src_id] = by_literal[literal]
        elif found:
            matches[src_id] = found[0]
    return matches


def explain_special_token(subject: Subject, dst: Destination) -> Found:
    """The tokens of a special token's literal, and then those of each role to try."""
    roles = roles_to_try(role_of(subject.token.decode(errors="replace")))
    also = f" or the role {' or '.join(roles)}" if roles else ""
    return Found(list(_related(subject, dst)), f"no special token has this literal{also}")


def _related(subject: Subject, dst: Destination) -> Iterator[Related]:
    literal = subject.token.decode(errors="surrogateescape")
    groups = {"identical literal": [literal]}
    for step, role in enumerate(roles_to_try(role_of(literal))):
        others = [one for one in literals_of(role) if one != literal]
        groups[f"{'fallback' if step else 'same'} role {role}"] = others
    for turn, (relation, literals) in enumerate(groups.items()):
        for dst_id in dst.with_literals(literals):
            kind = dst.kinds[dst_id]
            distance = 0 if kind == Kind.SPECIAL else None
            yield Related((turn, 0, dst_id), Rule.SPECIAL, relation, distance, _barred(kind))


def _barred(kind: Kind) -> str:
    if kind == Kind.SPECIAL:
        return ""
    if kind == Kind.UNUSED:
        return UNUSED
    return f"a {kind.name.lower()} token, not a special one"
