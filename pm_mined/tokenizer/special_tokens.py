"""The meaning of special tokens: roles, reserved literals, and the families of rank files.

All of it is read from `data/special_tokens.toml`.
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.vocabulary import TokenTable, Vocabulary

_ALWAYS_SPECIAL = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")  # `<s>` as text is only text
_LOOK = re.compile(
    r"<[|｜].+[|｜]>|<[|｜]\w[^<>]*>|<[^<>]*\w[|｜]>|\[[|].+[|]\]"  # <|a|>, <|a>, <a|>, [|a|]
    r"|\[/?[A-Z]+(_[A-Z]+)*\]|</?[a-z]+(_[a-z]+)+>",  # [A_B], <a_b>
    re.DOTALL,
)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("pm_mined").joinpath("data/special_tokens.toml").read_text("utf-8"))


@cache
def _reserved() -> re.Pattern[str]:
    return re.compile("|".join(_table()["reserved"]))


@cache
def _role_of_literal() -> dict[str, str]:
    return {
        literal: role for role, entry in _table()["roles"].items() for literal in entry["tokens"]
    }


def role_of(literal: str) -> str | None:
    """The role that a special token plays, if it plays one.

    >>> role_of("<|eot_id|>"), role_of("<|im_end|>"), role_of("hello")
    ('end_of_turn', 'end_of_turn', None)
    """
    return _role_of_literal().get(literal)


def literals_of(role: str) -> list[str]:
    """The literals that play a role."""
    return list(_table()["roles"][role]["tokens"])


def looks_special(literal: str) -> bool:
    """True if a token that is not marked special most likely is a control token all the same.

    >>> looks_special("<|file_sep|>"), looks_special("<think>"), looks_special("<s>")
    (True, True, False)
    """
    role = role_of(literal)
    has_role = role is not None and role not in _ALWAYS_SPECIAL
    return has_role or _LOOK.fullmatch(literal) is not None


def is_marker(vocabulary: Vocabulary, token_id: int) -> bool:
    """True if an added token is written like a control token, or if its files give it a role."""
    literal = vocabulary[token_id].decode(errors="replace")
    return written_like_marker(literal) or token_id in vocabulary.roles


def written_like_marker(literal: str) -> bool:
    """True if an added token is written like a control token; an ordinary one may be so by chance.

    >>> written_like_marker("<｜/table>｜"), written_like_marker("<s>"), written_like_marker("<b>")
    (True, True, False)
    """
    begun = literal.startswith(("<|", "<｜", "[|", "｜"))
    return begun or looks_special(literal) or role_of(literal) is not None


def role_in(vocabulary: Vocabulary, token_id: int) -> str | None:
    """The role of a special or added token: that of its literal, else what its files name."""
    literal = vocabulary[token_id].decode(errors="replace")
    return role_of(literal) or vocabulary.roles.get(token_id)


def turn_markers(vocabulary: Vocabulary) -> dict[str, str]:
    """The special tokens that begin and end turns, with their roles."""
    roles = {i: role_in(vocabulary, i) for i in vocabulary.ids_of_kind(Kind.SPECIAL)}
    return {
        vocabulary[token_id].decode(errors="replace"): role
        for token_id, role in roles.items()
        if role in ("start_of_turn", "end_of_turn")
    }


def added_kind(literal: str, *, special: bool) -> Kind:
    r"""The kind of a token that its file adds on purpose: reserved literals are unused.

    White space is text, even if the file calls it special.

    >>> added_kind("<s>", special=True).name, added_kind("\n", special=True).name
    ('SPECIAL', 'TEXT')
    """
    if _reserved().fullmatch(literal):
        return Kind.UNUSED
    return Kind.SPECIAL if special and not literal.isspace() else Kind.TEXT


def _expand(literal: str) -> list[str]:
    """`"<{2..4}>"` stands for `<2>`, `<3>` and `<4>`."""
    run = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", literal)
    if run is None:
        return [literal]
    before, first, last, after = run.groups()
    return [f"{before}{number}{after}" for number in range(int(first), int(last) + 1)]


def family_tokens(family: str) -> list[tuple[str, Kind]]:
    """The special and added tokens of a family of rank files, in id order."""
    entry = _table()["families"][family]
    before = family_tokens(entry["extends"]) if "extends" in entry else []
    text = entry.get("text", [])
    literals = [literal for item in entry["tokens"] for literal in _expand(item)]
    return before + [
        (literal, added_kind(literal, special=literal not in text)) for literal in literals
    ]


NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


def splitting(family: str) -> tuple[str, NormalForm | None]:
    """The pattern by which a family's tokenizer splits text, and the normal form before it."""
    entry = _table()["families"][family]
    return entry["pattern"], entry.get("normal_form")


def put_family(table: TokenTable, family: str, first_id: int) -> None:
    """Write a family's tokens into `table` from `first_id` on.

    Raises:
        VocabularyError: the family's tokens belong elsewhere: the ranks are of another tokenizer.
    """
    expected = _table()["families"][family]["first_id"]
    if first_id != expected:
        raise VocabularyError(
            f"{first_id} ranks, but the special tokens of {family} follow {expected}: this is a "
            "file of another tokenizer"
        )
    for token_id, (literal, kind) in enumerate(family_tokens(family), first_id):
        table.add(token_id, literal.encode(), kind)


def roles_to_try(role: str | None) -> list[str]:
    """A role and those that it falls back to, in order; none for None."""
    roles = []
    while role is not None:
        roles.append(role)
        role = _table()["roles"][role].get("fallback")
    return roles
