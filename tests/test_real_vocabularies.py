"""Real vocabularies: every ordered pair against the twin, samples against RapidFuzz."""

import json
import random
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from conftest import quick_first, real_vocabulary, shared_file
from rapidfuzz.distance import Levenshtein

from pm_mined import Kind, Rule, build_map
from pm_mined.kernels import prefix_match, reference

NAMES = ("llama3", "qwen3", "mistral-v1", "mistral-tekken", "deepseek", "llama4")


QUICK = {("mistral-v1", "char")}


@pytest.mark.parametrize(
    ("dst", "unit"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow)
        for pair in product(NAMES, ("char", "byte"))
    ],
)
def test_kernel_equals_twin_on_all_tokens(dst, unit):
    dictionary = reference.PrefixDictionary(real_vocabulary(dst).packed, unit)
    trie = prefix_match.build_trie(real_vocabulary(dst).packed, unit)
    for src in NAMES:
        if src == dst:
            continue
        packed = real_vocabulary(src).packed
        comp = prefix_match.match(packed, trie, unit)
        ref = reference.match(packed, dictionary)
        for name in comp._fields:
            np.testing.assert_array_equal(getattr(comp, name), getattr(ref, name), f"{src} {name}")


class Oracle:
    """RapidFuzz over all destination tokens filtered by `startswith`; no code of the kernels."""

    def __init__(self, vocabulary, unit):
        self.unit = unit
        self.same_bytes = defaultdict(list)
        self.by_start = defaultdict(list)  # the first two units, or the only one
        for dst_id, (token, kind) in enumerate(_tokens_and_kinds(vocabulary)):
            if kind in (Kind.TEXT, Kind.BYTE, Kind.FRAGMENT):
                self.same_bytes[token].append((kind, dst_id))
            if kind == Kind.TEXT or (unit == "byte" and kind in (Kind.BYTE, Kind.FRAGMENT)):
                written = self.written(token)
                self.by_start[written[:2]].append((written, dst_id))

    def written(self, token):
        return token if self.unit == "byte" else token.decode()

    def related(self, src):
        """Every destination token of which one may be a prefix of the other."""
        if len(src) > 1:
            return self.by_start[src[:2]] + self.by_start[src[:1]]
        return [one for start, many in self.by_start.items() if start[:1] == src for one in many]

    def match(self, token, kind):
        same = sorted((of != kind, dst_id) for of, dst_id in self.same_bytes[token])
        if same:
            return same[0][1], 0
        if kind != Kind.TEXT and self.unit == "char":
            return -1, -1
        src = self.written(token)
        space = self.written(b" ")
        found = [
            (Levenshtein.distance(src, dst), dst_id)
            for dst, dst_id in self.related(src)
            if (src.startswith(dst) or dst.startswith(src))
            and (dst != space or not src.strip(space))
        ]
        distance, dst_id = min(found, default=(-1, -1))
        return dst_id, distance


def _tokens_and_kinds(vocabulary):
    return zip(vocabulary.packed.tolist(), vocabulary.packed.kinds.tolist(), strict=True)


@pytest.mark.parametrize("unit", ["char", "byte"])
@pytest.mark.parametrize("dst", quick_first(NAMES))
def test_samples_equal_rapidfuzz(dst, unit):
    oracle = Oracle(real_vocabulary(dst), unit)
    trie = prefix_match.build_trie(real_vocabulary(dst).packed, unit)
    for src in NAMES:
        vocabulary = real_vocabulary(src)
        comp = prefix_match.match(vocabulary.packed, trie, unit)
        ordinary = np.flatnonzero(vocabulary.packed.kinds <= Kind.FRAGMENT)
        # Half of the sample from the tokens that are not exact: those are the hard ones.
        inexact = ordinary[comp.rule[ordinary] > Rule.BYTE].tolist()
        generator = random.Random(f"{src} {dst} {unit}")
        hard = generator.sample(inexact, min(150, len(inexact)))
        for i in hard + generator.sample(ordinary.tolist(), 300 - len(hard)):
            expected = oracle.match(vocabulary[i], vocabulary.kind(i))
            assert (comp.dst_id[i], comp.distance[i]) == expected, (src, dst, i, vocabulary[i])


CONTROL_CHARACTERS = 29


def test_mistral_to_llama2_equals_the_published_map():
    """wujwyi/CMC token_maps: all ids but 29 control characters and `<?>` (DESIGN, section 3)."""
    llama2 = shared_file("cmc/llama2-tokenizer.model")
    published = np.array(json.loads(shared_file("cmc/one2one_mistral2llama_id.json").read_text()))
    made = build_map(real_vocabulary("mistral-v1"), llama2)
    differing = [made.row(int(i)) for i in np.flatnonzero(made.dst_id != published)]
    assert len(differing) == CONTROL_CHARACTERS + 1

    (question_mark,) = (row for row in differing if row.src_id == 25955)
    assert (question_mark.src_token, question_mark.dst_token) == (b"<?>", b"<?")
    assert (question_mark.rule, question_mark.distance) == ("prefix", 1)
    for row in differing:
        if row is not question_mark:
            assert len(row.src_token) == 1
            assert row.src_token < b" " or row.src_token == b"\x7f"
            assert (row.rule, row.dst_token) == ("byte", row.src_token)
            assert published[row.src_id] == -1


def test_the_published_figures():
    """DESIGN, section 3, less the 30 ids on which the published map is wrong."""
    made = build_map(real_vocabulary("mistral-v1"), shared_file("cmc/llama2-tokenizer.model"))
    rules = made.info.rules
    assert rules["special"] + rules["exact"] == 24185 - 1
    assert (rules["prefix"], rules["extension"]) == (6287 + 1, 187)
    assert (rules["byte"], rules["none"]) == (29, 1341 - 29)
    assert made.distance.max() == 13
    assert np.bincount(made.dst_id[made.dst_id >= 0]).max() == 20
