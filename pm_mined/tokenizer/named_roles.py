"""Roles of special tokens that the files of a model name: for those that the table leaves out."""

import re
from collections.abc import Mapping

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.vocabulary import TokenTable

from .special_tokens import role_of

# Keys of a configuration, the most telling first: one token may be named by several.
_KEYS = ("eos", "bos", "unk", "pad", "cls", "sep", "mask")

_MOST_SEARCHED = 2**30  # characters of a chat template, times tokens that are looked for in it

# What a template writes between a first token of a turn and the role, and that role. White space is
# taken at once, and names are short: no template makes the search long.
_THEN_A_ROLE = (
    r"""['"]?\s*+(?:[+~]|(?:-?\}\})?\s*+\{\{-?)?\s*+"""
    r"""(?:\w{1,40}(?:\.role\b|\[['"]role['"]\])|['"]?(?:role|system|user|assistant|model)\b)"""
)


def roles_named(
    table: TokenTable,
    named: Mapping[str, str],
    ids: Mapping[str, list[int]],
    chat_template: str,
) -> dict[int, str]:
    """The roles of special and added tokens, by id, where `data/special_tokens.toml` has none.

    `named` has literals (`eos_token`), `ids` has ids (`eos_token_id`). A token that ends a text
    and that the chat template writes ends a turn; one that the template writes directly before a
    role begins a turn.

    Raises:
        VocabularyError: to look for so many tokens in so long a template would take minutes.
    """
    literals = _unknown_literals(table)
    if len(literals) * len(chat_template) > _MOST_SEARCHED:
        raise VocabularyError(
            f"a chat template of {len(chat_template):,} characters beside {len(literals):,} "
            "special tokens is more than any model has"
        )
    ids_of = {literal: token_id for token_id, literal in reversed(literals.items())}
    roles: dict[int, str] = {}
    for key in _KEYS:
        by_name = ids_of.get(named.get(f"{key}_token", ""))
        for token_id in [by_name, *ids.get(f"{key}_token_id", [])]:
            if token_id in literals:
                roles.setdefault(token_id, key)
    return roles | _roles_in_template(literals, roles, named.get("eos_token"), chat_template)


def _unknown_literals(table: TokenTable) -> dict[int, str]:
    """The special and added tokens without a role in the table."""
    ids = {i for i in table.added if table.kinds[i] != Kind.UNUSED}
    ids |= {i for i, kind in enumerate(table.kinds) if kind == Kind.SPECIAL}
    literals = {i: table.tokens[i].decode(errors="replace") for i in sorted(ids)}
    return {i: literal for i, literal in literals.items() if role_of(literal) is None}


def _roles_in_template(
    literals: Mapping[int, str], roles: Mapping[int, str], eos_token: str | None, template: str
) -> dict[int, str]:
    found = {}
    for token_id, literal in literals.items():
        written = literal in template
        if roles.get(token_id) == "eos":
            by_name = literal == eos_token and re.search(r"\beos_token\b", template)
            if written or by_name:
                found[token_id] = "end_of_turn"
        elif written and re.search(re.escape(literal) + _THEN_A_ROLE, template):
            found[token_id] = "start_of_turn"
    return found
