"""Roles of special tokens that the files of a model name: for those that the table leaves out."""

import re
from collections.abc import Iterator, Mapping

from pm_mined.kernels.tokens import Kind
from pm_mined.vocabulary import TokenTable

from .special_tokens import role_of

# Keys of a configuration, the most telling first: one token may be named by several.
_KEYS = ("eos", "bos", "unk", "pad", "cls", "sep", "mask")

# What stands in a template between a turn's first token and the turn's role, and that role. It is
# bounded and takes nothing back, so that no template takes long.
_THEN_A_ROLE = re.compile(
    r"""['"]?\s{0,8}+(?:[+~]|(?:-?\}\})?\s{0,8}+\{\{-?)?\s{0,8}+"""
    r"""(?:\w{1,32}+(?:\.role\b|\[['"]role['"]\])|['"]?(?:role|system|user|assistant|model)\b)"""
)
_MOST_IDS = 64  # that end a text; real models have at most 10
_LONGEST = 64  # characters of a token that begins a turn
_TEMPLATE = 2**18  # characters of a template that are looked at; real ones have at most 30,000


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
    """
    literals = _unknown_literals(table)
    ids_of = {literal: token_id for token_id, literal in reversed(literals.items())}
    roles: dict[int, str] = {}
    for key in _KEYS:
        by_name = ids_of.get(named.get(f"{key}_token", ""))
        for token_id in [by_name, *ids.get(f"{key}_token_id", [])[:_MOST_IDS]]:
            if token_id in literals:
                roles.setdefault(token_id, key)
    template = chat_template[:_TEMPLATE]
    begin = {ids_of[one]: "start_of_turn" for one in _before_roles(template) if one in ids_of}
    return roles | begin | _ends_of_turns(literals, roles, named.get("eos_token"), template)


def _unknown_literals(table: TokenTable) -> dict[int, str]:
    """The special and added tokens without a role in the table."""
    ids = {i for i in table.added if table.kinds[i] != Kind.UNUSED}
    ids |= {i for i, kind in enumerate(table.kinds) if kind == Kind.SPECIAL}
    literals = {i: table.tokens[i].decode(errors="replace") for i in sorted(ids)}
    return {i: literal for i, literal in literals.items() if role_of(literal) is None}


def _before_roles(template: str) -> Iterator[str]:
    """All that a template writes directly before a role, from the shortest on."""
    for found in _THEN_A_ROLE.finditer(template):
        end = found.start()
        yield from (template[end - length : end] for length in range(1, min(end, _LONGEST) + 1))


def _ends_of_turns(
    literals: Mapping[int, str], roles: Mapping[int, str], eos_token: str | None, template: str
) -> dict[int, str]:
    """The tokens that end a text and that a template writes, by name or as they are."""
    by_name = re.search(r"\beos_token\b", template) is not None
    ends = (i for i, role in roles.items() if role == "eos")
    return {
        i: "end_of_turn"
        for i in ends
        if literals[i] in template or (by_name and literals[i] == eos_token)
    }
