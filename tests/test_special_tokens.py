"""Special tokens and markers: what they map to, in both directions, and what they never map to."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from test_model_folders import write_folder

import pm_mined
from pm_mined import STRATEGIES, Kind, Vocabulary, build_map, load_vocabulary
from pm_mined.reports.explain import Explainer
from pm_mined.tokenizer.special_tokens import role_of

TABLE = Path(pm_mined.__file__).parent / "data/special_tokens.toml"


def vocabulary(*tokens, roles=None):
    """Special tokens are `str`, ordinary ones `bytes`, markers `(str,)`: text that was added."""
    kinds, written, added = [], [], []
    for token_id, token in enumerate(tokens):
        kinds.append(Kind.SPECIAL if isinstance(token, str) else Kind.TEXT)
        written.append(token if isinstance(token, bytes) else "".join(token).encode())
        if not isinstance(token, bytes):
            added.append(token_id)
    return Vocabulary.from_tokens(written, kinds, added=added, roles=roles)


def mapped(src, dst, **how):
    """Source id -> (destination id, rule)."""
    made = build_map(src, dst, **how)
    rules = made.names("rule")
    ids, codes = made.dst_id.tolist(), made.rule.tolist()
    return [(dst_id, rules[code]) for dst_id, code in zip(ids, codes, strict=True)]


NOTHING = (-1, "none")
TEXTS = (b"<", b"<|", b"fim", b"<|fim")


@pytest.mark.parametrize("strategy", ["pm-mined", "exact", "mined", "prefixes"])
@pytest.mark.parametrize("unit", ["char", "byte"])
def test_a_marker_maps_to_its_literal_its_role_or_nothing(strategy, unit):
    src = vocabulary(("<|fim_prefix|>",), ("<fim_suffix>",), ("<|own|>",), b"<|fim_pre", "<|z|>")
    dst = vocabulary(*TEXTS, "<|fim_prefix|>", "<|fim_suffix|>", ("<|z|>",))
    found = mapped(src, dst, strategy=strategy, unit=unit)
    assert found[:3] == [(4, "special"), (5, "special"), NOTHING]
    assert found[3][0] not in (4, 5), "a special token is no extension of text"
    assert found[4] == (6, "special"), "the other way round"


@pytest.mark.parametrize(
    "literal", ["<｜/table>｜", "｜DSML｜", "[|x|]", "<|turn>", "<a_b>", "<x|>"]
)
def test_what_an_added_token_is_written_like(literal):
    src = vocabulary((literal,), literal.encode())
    assert mapped(src, vocabulary(literal[:2].encode())) == [NOTHING, (0, "prefix")]
    found = explained(src, vocabulary(literal[:2].encode()), 0)
    assert found.why.startswith("an added token written like a special one")
    html = vocabulary(("<table>",), ("hello",))
    assert mapped(html, vocabulary(b"<", b"hell")) == [(0, "prefix"), (1, "prefix")]


def test_no_fallback_takes_a_marker():
    src, dst = vocabulary(("<|ab|>",), b"<|ac|>"), vocabulary(b"<|ad|>")
    assert mapped(src, dst, fallback="edit", max_distance=2) == [NOTHING, (0, "edit")]


@pytest.mark.parametrize(
    "strategy", [name for name, one in STRATEGIES.items() if one.asks_tokenizer]
)
def test_strategies_that_encode_leave_markers_out(strategy, tmp_path):
    document = json.loads(tiny.byte_level_bpe().to_str())
    size = len(document["model"]["vocab"])
    document["added_tokens"].append(tiny.added(size, "<|fim_prefix|>", special=False))
    document["added_tokens"].append(tiny.added(size + 1, "<|im_end|>", special=False))
    write_folder(tmp_path, {"src.json": document, "dst.json": json.loads(_with_eos())})
    made = build_map(tmp_path / "src.json", tmp_path / "dst.json", strategy=strategy)
    assert made.row(size).dst_id == -1
    assert made.row(size).rule == "none"
    assert made.row(size + 1).rule == "special"
    assert made.choice_counts[[size, size + 1]].tolist() == [0, 1]


def _with_eos():
    tokenizer = tiny.byte_level_bpe()
    tokenizer.add_special_tokens(["<|eot_id|>"])
    return tokenizer.to_str()


def test_the_same_text_is_exact_and_special_tokens_go_first():
    src = vocabulary(("<think>",), "<think>", b"<think>")
    assert mapped(src, vocabulary(b"<think>")) == [(0, "exact"), (0, "special"), (0, "exact")]
    dst = vocabulary(("<think>",), "[THINK]", "<think>")
    assert mapped(src, dst) == [(0, "exact"), (2, "special"), (0, "exact")]
    assert mapped(src, vocabulary(b"<think", "[THINK]")) == [
        (1, "special"),
        (1, "special"),
        (0, "prefix"),
    ], "only what was added is a marker"


def test_end_and_start_as_text_are_only_text():
    src, dst = vocabulary("<s>", "</s>"), vocabulary(b"<s>", b"</s>")
    assert mapped(src, dst) == [NOTHING, NOTHING]


def test_roles_that_files_name_come_after_those_of_the_table():
    src = vocabulary("<|im_end|>", "<|endoftext|>", "<my end>", roles={2: "end_of_turn"})
    dst = vocabulary("<stop>", "<bye>", "</s>", roles={0: "eos", 1: "end_of_turn"})
    assert mapped(src, dst) == [(1, "special"), (2, "special"), (1, "special")]
    dst = vocabulary("<stop>", roles={0: "eos"})
    assert mapped(src, dst) == [(0, "special")] * 3
    assert mapped(dst, src) == [(1, "special")]


def explained(src, dst, src_id, **how):
    return Explainer(build_map(src, dst, **how), dst).explain(src_id)


def test_a_marker_is_explained():
    src = vocabulary(("<|fim_prefix|>",), ("<|own|>",), "<my end>", roles={2: "eos"})
    dst = vocabulary(b"<", "<fim_prefix>", "</s>", ("<|im_end|>",))
    found = explained(src, dst, 0)
    assert (found.match.dst_id, found.match.relation) == (1, "same role fim_prefix")
    found = explained(src, dst, 1)
    assert (found.match, found.by_rules) == (None, -1)
    assert found.why == (
        "an added token written like a special one maps as those do, and no special token has "
        "this literal"
    )
    found = explained(src, dst, 2)
    assert (found.match.dst_id, found.match.relation, found.why) == (2, "named role eos", "")


FAMILIES = {
    "Cohere": ["<BOS_TOKEN>", "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"],
    "gpt-oss": ["<|start|>", "<|return|>", "<|call|>", "<|message|>"],
    "Gemma 4": ["<|turn>", "<turn|>", "<|channel>", "<channel|>"],
    "GLM": ["<sop>", "<|code_prefix|>"],
    "ERNIE": ["<|begin_of_sentence|>", "<|end_of_sentence|>"],
    "Seed-OSS": ["<seed:bos>", "<seed:eos>", "<seed:pad>", "<seed:think>"],
    "EXAONE": ["[|endofturn|]", "[|user|]"],
    "MiniMax": ["]~!b[", "]~b]", "[e~["],
    "Granite": ["<|start_of_role|>", "<|end_of_role|>"],
    "DeepSeek": ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    "Falcon 3": ["<|pad|>", "<|assistant|>", "<|endoftext|>"],
    "Phi-4": ["<|im_sep|>", "<|im_end|>"],
    "Kimi": ["[EOT]", "<|im_middle|>", "<|im_user|>"],
    "StarCoder": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_current_families_have_roles(family):
    assert [literal for literal in FAMILIES[family] if role_of(literal) is None] == []


def test_every_family_in_the_table_has_its_source_and_no_literal_two_roles():
    text = TABLE.read_text("utf-8")
    sources = set(re.findall(r"^#   (\w\S*(?: \d)?) +https://\S+", text, re.MULTILINE))
    cited = set(re.findall(r'^(?:    "|tokens = \[").*\]?,? +# ([^:\n]+)', text, re.MULTILINE))
    assert cited == sources
    literals = [one for role in tomllib.loads(text)["roles"].values() for one in role["tokens"]]
    assert len(literals) == len(set(literals))


# --- Roles that the files of a model name ---------------------------------------------------------


def roles_of(tmp_path, literals, **files):
    entries = [tiny.added(i, one, special=True) for i, one in enumerate(literals, 1)]
    document = tiny.bpe_document({"a": 0}, added_tokens=entries)
    names = {f"{name}.json": content for name, content in files.items() if name != "template"}
    write_folder(tmp_path, {"tokenizer.json": document, **names})
    if "template" in files:
        (tmp_path / "chat_template.jinja").write_text(files["template"])
    return load_vocabulary(tmp_path).roles


def test_the_configuration_names_roles_that_the_table_does_not_know(tmp_path):
    config = {"eos_token": "<1>", "bos_token": "<2>", "pad_token": "<1>", "unk_token": "<s>"}
    ids = {"eos_token_id": [1, 3, 99, -1], "pad_token_id": 4}
    found = roles_of(
        tmp_path, ["<1>", "<2>", "<3>", "<4>", "<s>"],
        tokenizer_config=config, generation_config=ids, config={"eos_token_id": 2},
    )  # fmt: skip
    assert found == {1: "eos", 2: "bos", 3: "eos", 4: "pad"}


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ '<1>' + m['role'] + '\\n' + m['content'] + '<2>' }}{% endfor %}",
        "{% for m in messages %}<1>{{ m.role }}\n{{ m.content }}<2>{% endfor %}",
        "{{- '<1>' ~ role ~ '<3>' ~ content ~ eos_token -}}",
        "{% if m.role == 'user' %}{{ '<1>user\n' + m.content + '<2>' }}{% endif %}",
    ],
)
def test_the_chat_template_tells_which_tokens_begin_and_end_a_turn(template, tmp_path):
    config = {"eos_token": "<2>", "bos_token": "<4>"}
    found = roles_of(
        tmp_path, ["<1>", "<2>", "<3>", "<4>"], tokenizer_config=config, template=template
    )
    assert found == {1: "start_of_turn", 2: "end_of_turn", 4: "bos"}


def test_without_a_template_what_ends_a_text_is_no_more_than_that(tmp_path):
    assert roles_of(tmp_path, ["<1>"], tokenizer_config={"eos_token": "<1>"}) == {1: "eos"}


def test_a_hostile_template_takes_no_time(tmp_path):
    template = "<1>" + " " * 10**6 + "'<1>' + " * 10**5 + "x" * 10**6 + "user" * 10**5
    with tiny.time_limit(5):
        found = roles_of(tmp_path, ["<1>", "<2>"], template=template)
    assert found == {}
