"""Models that are spread over main memory and disk do what they do in one place, bit by bit."""

import pytest
import torch
from command_line import run as run_command
from tiny_models import save_model, tiny_llama
from training_runs import OPTIONS, PROMPT_TEMPLATE, run, save_rows

from cmc_runtime import Sampling, evaluate, generate, load_delta, load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.errors import ModelError
from cmc_runtime.models.base_weights import base_weights
from cmc_runtime.models.digest import model_digest
from cmc_runtime.models.placement import main_device
from cmc_runtime.training.new_delta import new_adapter, new_delta

INSIDE = {"model.layers.0": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
MAPS = {
    "a layer": {
        **INSIDE,
        "model.embed_tokens": "cpu",
        "model.layers.1": "disk",
        "lm_head": "cpu",
    },
    "both ends": {
        **INSIDE,
        "model.embed_tokens": "disk",
        "model.layers.1": "cpu",
        "lm_head": "disk",
    },
    "all": {"": "disk"},
}


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied"])
def folder(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("placement")
    save_model(folder / "user", "byte-level")
    tied = {"tie_word_embeddings": request.param, "eos_token_id": 0, "bos_token_id": None}
    tiny_llama(420, 0, **tied).save_pretrained(folder / "user")
    save_model(folder / "delta", "metaspace", seed=1)
    save_rows(folder / "data.jsonl", 4)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    return load_model(folder / "user", device="cpu", dtype=torch.float32)


@pytest.fixture(params=MAPS.values(), ids=MAPS.keys())
def spread(folder, request):
    return load_model(folder / "user", device_map=request.param, dtype=torch.float32)


def test_it_is_the_same_model(whole, spread):
    assert spread.device == main_device(spread.model) == torch.device("cpu")
    assert "meta" in {one.device.type for one in spread.model.parameters()}
    assert base_weights(spread.model) == base_weights(whole.model)
    assert model_digest(spread.model) == model_digest(whole.model)


def test_it_is_steered(folder, whole, spread):
    data = read_examples(folder / "data.jsonl")
    found = []
    for user in (whole, spread):
        delta = load_delta(
            folder / "delta", user.tokenizer, num_logits=user.num_logits, device=user.device
        )
        options = {"prompt_template": PROMPT_TEMPLATE}
        made = generate(user, ["the quick", "日本語"], delta, sampling=Sampling(6), **options)
        scored = evaluate(user, data, delta, **options)
        found.append(([one.token_ids for one in made], scored.to_json()["results"]))
    assert found[0] == found[1]


@pytest.mark.parametrize("make", [new_delta, new_adapter])
def test_a_delta_is_trained_beside_it(folder, tmp_path, whole, spread, make):
    small = load_model(folder / "delta", device="cpu", dtype=torch.float32)
    for name, frozen in (("whole", whole), ("spread", spread)):
        start = make(frozen if make is new_delta else small)
        run(folder, frozen, tmp_path / name, OPTIONS(num_train_epochs=1), start=start)
    name = "model" if make is new_delta else "adapter_model"
    files = [tmp_path / place / f"{name}.safetensors" for place in ("whole", "spread")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_base_of_an_adapter_is_in_one_place(spread):
    with pytest.raises(ModelError, match="must be in one: give a small model by --adapter-base"):
        new_adapter(spread)


def test_a_device_and_a_map_of_devices(folder):
    with pytest.raises(ModelError, match="give a device, or a device map to spread it"):
        load_model(folder / "user", device="cpu", device_map="auto")
    with pytest.raises(ModelError, match="cannot load it"):
        load_model(folder / "user", device_map="everywhere")


def test_the_command_line(folder):
    options = ("--model", folder / "user", "--prompt", "the quick", "--max-new-tokens", "6")
    done = run_command("generate", *options, "--device-map", "auto", program="cmc-runtime")
    assert done.status == 0, done.stderr
    plain = run_command("generate", *options, program="cmc-runtime")
    assert done.stdout == plain.stdout
    both = run_command(
        *("generate", *options, "--device-map", "auto", "--device", "cpu"), program="cmc-runtime"
    )
    assert both.status == 1
    assert "give a device, or a device map" in both.stderr
