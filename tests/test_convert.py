"""`cmc-runtime convert`: folders as GGUF files and back, by logits; what cannot be is refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import command_line
import gguf
import pytest
import tiny_tokenizers as tiny
import torch
from gguf_tokenizers import sentencepiece_tokenizer
from tiny_models import CHAT, save_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cmc_runtime.conversion import to_gguf
from cmc_runtime.conversion.to_folder import write_folder
from cmc_runtime.conversion.to_gguf import write_gguf
from cmc_runtime.delta import load_delta
from cmc_runtime.delta_card import Card, read_card
from cmc_runtime.errors import CardError, ModelError
from cmc_runtime.models.carried import KEYS
from cmc_runtime.models.load import load_model, load_tokenizer
from pm_mined import build_map, load_encoder, load_vocabulary

pytest.importorskip("accelerate")
command = partial(command_line.run, program="cmc-runtime")

SIZES = {
    "vocab_size": 420,  # wider than the tokenizer
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "eos_token_id": [0, 3],
    "bos_token_id": None,
    "pad_token_id": None,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama of wide heads": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=128)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES | {"num_hidden_layers": 7},
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=8,
            tie_word_embeddings=False,
        )
    ),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def save(folder, name, tokenizer=None):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    if tokenizer is not None:
        model.resize_token_embeddings(len(tokenizer) + 1, mean_resizing=False)
    for parameter in model.parameters():  # biases and norms begin as 0 and 1
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    fast = tokenizer or PreTrainedTokenizerFast(
        tokenizer_object=tiny.byte_level_bpe(), eos_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "delta", "llama")


def logits(model, ids=range(5, 45)):
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits


def same_model(one, other):
    assert torch.equal(logits(one.model), logits(other.model))
    found = other.model.state_dict()
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, found[name]), name


def same_tokenizer(one, other):
    assert one.vocabulary.fingerprint == other.vocabulary.fingerprint
    assert one.vocabulary.roles == other.vocabulary.roles
    assert one.ends == other.ends
    for text in ("", "the quick<|endoftext|> 12 fox\n", "  日本語 🙂"):
        assert one.tokenizer(text) == other.tokenizer(text)


# --- folder -> GGUF -> model ---


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_comes_back_from_gguf(tmp_path, name):
    before = load_model(save(tmp_path / "delta", name), device="cpu")
    path = tmp_path / "delta.gguf"
    write_gguf(before, path)
    for _ in range(2):  # converted, and from the cache
        after = load_model(path, device="cpu")
        if name == "gemma3":  # llama.cpp's norms have 1 added, which rounds
            assert torch.allclose(logits(before.model), logits(after.model), atol=1e-4)
        else:
            same_model(before, after)
        same_tokenizer(before, after)
        config, again = (one.model.config.to_dict() for one in (before, after))
        assert {**config, "_name_or_path": ""} == {**again, "_name_or_path": ""}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_alone_reads_the_same_model(tmp_path, name):
    """It knows nothing of the files that are carried: the keys of llama.cpp say the same."""
    before = load_model(save(tmp_path / "delta", name), device="cpu")
    path = tmp_path / "delta.gguf"
    write_gguf(before, path)
    alone = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).eval()
    assert torch.allclose(logits(before.model), logits(alone), atol=1e-4)
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 3
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert len(fields["tokenizer.ggml.tokens"].contents()) == 420
    assert fields["tokenizer.ggml.tokens"].contents()[419] == "[PAD419]"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.2)], ids=str
)
def test_half_the_size(folder, tmp_path, dtype, tolerance):
    before = load_model(folder, device="cpu")
    write_gguf(before, tmp_path / "full.gguf")
    write_gguf(load_model(folder, device="cpu", dtype=dtype), tmp_path / "half.gguf")
    after = load_model(tmp_path / "half.gguf", device="cpu")
    for name, weight in before.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], weight.to(dtype).float()), name
    difference = (logits(before.model) - logits(after.model)).abs().max()
    assert 0 < difference < tolerance * logits(before.model).abs().max()
    sizes = [(tmp_path / f"{name}.gguf").stat().st_size for name in ("full", "half")]
    weights = sum(one.numel() for one in before.model.parameters() if one.ndim > 1)
    assert sizes[0] - sizes[1] == pytest.approx(2 * weights, abs=1000)


def test_pieces_of_sentencepiece(tmp_path):
    tokenizer = sentencepiece_tokenizer(tmp_path)
    before = load_model(save(tmp_path / "delta", "llama", tokenizer), device="cpu")
    path = tmp_path / "delta.gguf"
    notes = []
    write_gguf(before, path, note=notes.append)
    assert notes == [
        "llama.cpp puts a space also before texts that begin with one; this tokenizer does not"
    ]
    after = load_model(path, device="cpu")
    same_model(before, after)
    same_tokenizer(before, after)
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is True


def test_the_vocabulary_is_that_of_the_folder(folder, tmp_path):
    """By pm-mined, too, which reads the file itself; the tokens that pad it are none."""
    path = tmp_path / "delta.gguf"
    write_gguf(load_model(folder, device="cpu"), path)
    of_folder, of_file = load_vocabulary(folder), load_vocabulary(path)
    assert of_file.fingerprint == of_folder.fingerprint
    assert of_file.roles == of_folder.roles
    texts = ["the quick<|endoftext|> 123\n", "  日本語"]
    for one, other in zip(load_encoder(path)(texts), load_encoder(folder)(texts), strict=True):
        assert list(one) == list(other)
    assert load_tokenizer(path)(texts) == load_tokenizer(folder)(texts)


# --- deltas ---


@pytest.fixture
def delta(folder):
    fingerprint = load_vocabulary(folder).fingerprint
    card = Card(
        fingerprint, "Q: {prompt}\nA:", 0.75, unmapped="mean", end_id=3, training={"a": "é☃"}
    )
    card.save(folder)
    return folder


def test_a_delta_steers_as_before(delta, tmp_path, monkeypatch):
    """With its card, and with a map that was made for either."""
    monkeypatch.chdir(tmp_path)
    user = load_model(save_model(tmp_path / "user", "metaspace", logits=430), device="cpu")
    write_gguf(load_model(delta, device="cpu"), tmp_path / "made.gguf")
    build_map(user.tokenizer, "made.gguf").save(tmp_path / "made.arrow")
    base, fused = torch.randn(1, 430), []
    for spec in (delta, tmp_path / "made.gguf"):
        notes = []
        loaded = load_delta(
            spec, user.tokenizer, num_logits=430, ends=user.ends, device="cpu", note=notes.append
        )
        assert any("made.arrow, found" in one for one in notes)
        assert (loaded.alpha, loaded.end, loaded.unmapped) == (0.75, 3, "mean")
        assert loaded.prompt_template == "Q: {prompt}\nA:"
        request = loaded.begin("the quick")
        request.append(300)
        fused.append(loaded.fuse(base, [request]))
    assert not torch.equal(fused[0], base)
    assert torch.equal(*fused)


def test_a_map_beside_the_file_is_found(delta, tmp_path):
    user = load_model(save_model(tmp_path / "user", "metaspace", logits=430), device="cpu")
    (tmp_path / "there").mkdir()
    write_gguf(load_model(delta, device="cpu"), tmp_path / "there/made.gguf")
    build_map(user.tokenizer, delta).save(tmp_path / "there/some.arrow")
    notes = []
    load_delta(
        tmp_path / "there/made.gguf",
        user.tokenizer,
        num_logits=430,
        device="cpu",
        note=notes.append,
    )
    assert any("there/some.arrow, found" in one for one in notes)


def test_a_delta_there_and_back(delta, tmp_path):
    before = load_model(delta, device="cpu")
    write_gguf(before, tmp_path / "made.gguf")
    write_folder(load_model(tmp_path / "made.gguf", device="cpu"), tmp_path / "back")
    after = load_model(tmp_path / "back", device="cpu")
    same_model(before, after)
    same_tokenizer(before, after)
    assert read_card(tmp_path / "back") == read_card(delta)


def carried(path, **changes):
    """A file with other texts in its keys; None leaves one out."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("changed.gguf"), "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kinds, value = field.types, field.contents()
        name = next((name for name, one in KEYS.items() if one == key), "").partition(".")[0]
        value = changes.get(name, value)
        if value is not None:
            writer.add_key_value(key, value, kinds[0], kinds[1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("changed.gguf")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": None}, "it lacks tokenizer.huggingface.json"),
        ({"tokenizer_config": None}, "it lacks cmc_runtime.tokenizer_config"),
        ({"config": "[]"}, "not a JSON object"),
        ({"config": '{"num_hidden_layers": 99999999}'}, "num_hidden_layers is 99999999"),
        ({"generation_config": "{"}, "not JSON"),
    ],
)
def test_damaged_files_that_are_carried(delta, tmp_path, changes, said):
    path = tmp_path / "made.gguf"
    write_gguf(load_model(delta, device="cpu"), path)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(carried(path, **changes), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_card_that_is_damaged(delta, tmp_path):
    path = tmp_path / "made.gguf"
    write_gguf(load_model(delta, device="cpu"), path)
    assert read_card(path) == read_card(delta)
    with pytest.raises(CardError, match="not the card of a delta model"):
        read_card(carried(path, delta='{"format_version": 2}'))
    assert read_card(carried(path, delta=None)) is None


# --- GGUF -> folder ---


def test_a_gguf_model_as_a_folder(tmp_path):
    from test_models import write_gguf as write_plain

    before = load_model(write_plain(tmp_path / "tiny.gguf"), device="cpu")
    write_folder(before, tmp_path / "out")
    after = load_model(tmp_path / "out", device="cpu")
    same_model(before, after)
    same_tokenizer(before, after)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert torch.equal(logits(before.model), logits(alone))
    text = "the quick brown fox"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text) == before.tokenizer(text)


# --- the command ---


def test_the_command(delta, tmp_path):
    done = command("convert", "delta", "--json", cwd=tmp_path)
    assert done.status == 0, done
    document = json.loads(done.stdout)
    assert list(document) == ["output", "format", "parameters", "dtype", "bytes", "seconds"]
    assert document["bytes"] == (tmp_path / "delta.gguf").stat().st_size
    assert (document["output"], document["format"]) == ("delta.gguf", "gguf")
    weights = load_model(delta, device="cpu").model.parameters()
    assert document["parameters"] == sum(one.numel() for one in weights)
    done = command("convert", "delta.gguf", "-o", "back", "--dtype", "float16", cwd=tmp_path)
    assert done.stdout.startswith("back: ")
    assert "in float16, 0.1 MB" in done.stdout
    assert load_model(tmp_path / "back", device="cpu").model.dtype == torch.float16
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o777 & ~umask()
    assert command("convert", "delta", cwd=tmp_path).status == 0  # a GGUF file is replaced


def umask():
    """That of this process, which Linux tells without a change of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)


def refused(tmp_path, *arguments):
    before = sorted(tmp_path.rglob("*"))
    done = command("convert", *arguments, cwd=tmp_path)
    assert done.status in (1, 2)
    assert done.stdout == ""
    (line,) = [one for one in done.stderr.splitlines() if not one.startswith("note: ")]
    assert "internal error" not in done.stderr
    assert [one for one in sorted(tmp_path.rglob("*")) if "cache" not in one.parts] == [
        one for one in before if "cache" not in one.parts
    ]
    return line


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gpt2"}, "type gpt2 cannot be written as GGUF (only llama, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' cannot be written"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "rope_type 'linear' cannot be written",
        ),
    ],
)
def test_models_that_llama_cpp_computes_otherwise(folder, tmp_path, fields, said):
    if "model_type" in fields:
        from transformers import GPT2Config, GPT2LMHeadModel

        GPT2LMHeadModel(
            GPT2Config(vocab_size=420, n_embd=16, n_layer=1, n_head=2, n_positions=32)
        ).save_pretrained(folder)
    else:
        change(folder / "config.json", **fields)
    assert said in refused(tmp_path, "delta")


def test_a_gemma_with_layers_in_another_order(tmp_path):
    folder = save(tmp_path / "delta", "gemma3")
    change(folder / "config.json", layer_types=["full_attention"] * 7)
    assert "layer_types" in refused(tmp_path, "delta")


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (tiny.metaspace_bpe, "merges are not those of a SentencePiece model"),
        (tiny.word_piece, "of type 'WordPiece', only BPE"),
    ],
)
def test_tokenizers_that_llama_cpp_has_not(folder, tmp_path, tokenizer, said):
    PreTrainedTokenizerFast(tokenizer_object=tokenizer()).save_pretrained(folder)
    assert said in refused(tmp_path, "delta")


def test_a_tokenizer_that_puts_other_tokens_around(folder, tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny.byte_level_bpe()
    tokenizer.post_processor = TemplateProcessing(
        single="t $A", special_tokens=[("t", tokenizer.token_to_id("t"))]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    assert "puts other tokens around a text" in refused(tmp_path, "delta")


def test_an_adapter_is_no_model(folder, tmp_path):
    from cmc_runtime.training.new_delta import new_adapter

    (tmp_path / "adapter").mkdir()
    new_adapter(load_model(folder, device="cpu"), rank=2).save(tmp_path / "adapter")
    said = refused(tmp_path, "adapter")
    assert "an adapter is a delta by the difference to its base model" in said


def test_outputs_that_would_destroy_something(folder, tmp_path):
    (tmp_path / "other.gguf").write_text("notes")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    (folder / "inside.gguf").write_bytes(b"GGUF")
    write_gguf(load_model(folder, device="cpu"), tmp_path / "made.gguf")
    (tmp_path / "link.gguf").symlink_to(folder / "inside.gguf")
    for arguments, said in [
        (["delta", "-o", "other.gguf"], "is there, and no GGUF file"),
        (["delta", "-o", "delta/config.json"], "is read here"),
        (["delta", "-o", "link.gguf"], "is read here"),
        (["delta", "-o", "new"], "a GGUF file is named .gguf"),
        (["delta", "-o", "no/new.gguf"], "there is no folder no"),
        (["delta", "--to", "folder"], "is a folder already"),
        (["made.gguf", "--to", "gguf"], "is a GGUF file already"),
        (["made.gguf", "-o", "full"], "there is something already"),
        (["made.gguf", "-o", "made.gguf"], "there is something already"),
        (["made.gguf", "-o", "no/new"], "there is no folder no"),
        (["missing"], "no model of that name"),
    ]:
        assert said in refused(tmp_path, *arguments), arguments


@pytest.mark.parametrize("source", ["delta", "made.gguf"])
def test_a_failure_leaves_all_as_it_was(folder, tmp_path, monkeypatch, source):
    write_gguf(load_model(folder, device="cpu"), tmp_path / "made.gguf")
    content = (tmp_path / "made.gguf").read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(to_gguf, "_finish", fail)
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fail)
    output = "made.gguf" if source == "delta" else "out"
    assert f"{output}: cannot be written: No space left on device" in refused(
        tmp_path, source, "-o", output
    )
    assert (tmp_path / "made.gguf").read_bytes() == content


def test_a_chat_template_goes_along(tmp_path):
    save_model(tmp_path / "chat", "byte-level", chat_template=CHAT)
    write_gguf(load_model(tmp_path / "chat", device="cpu"), tmp_path / "chat.gguf")
    assert load_tokenizer(tmp_path / "chat.gguf").chat_template == CHAT
    shutil.rmtree(tmp_path / "chat")
    assert load_model(tmp_path / "chat.gguf", device="cpu").tokenizer.chat_template == CHAT
