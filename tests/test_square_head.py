"""The output layer of a delta of layers: what it is, what of it is trained, and what is saved."""

import pytest
import torch
from tiny_models import save_model
from training_runs import PROMPT_TEMPLATE, run, save_rows
from transformers import AutoModelForCausalLM

from cmc_runtime import load_delta, load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.data.samples import fitting_samples, sample_batch
from cmc_runtime.models.output_head import OutputHead
from cmc_runtime.training.new_delta import delta_of_layers, new_delta
from cmc_runtime.training.objectives import FusedObjective
from cmc_runtime.training.square_head import fold, make_trainable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("square-head")
    save_model(made / "template", "byte-level", seed=0)
    save_rows(made / "data.jsonl", 12)
    save_rows(made / "retain.jsonl", 7, shift=1)
    return made


@pytest.fixture(scope="module")
def template(folder):
    return load_model(folder / "template", device="cpu")


def test_a_square_head_is_the_embeddings_times_a_matrix(template):
    model = delta_of_layers(template.model, 1)
    head, embeddings = model.get_output_embeddings(), template.model.get_output_embeddings().weight
    torch.nn.init.normal_(head.square.weight)
    ids = torch.arange(1, 9)[None]
    states = model.get_decoder()(ids).last_hidden_state
    expected = states @ head.square.weight.T @ embeddings.T
    torch.testing.assert_close(model(ids).logits, expected)
    torch.testing.assert_close(OutputHead.of(model)(states), expected)
    fold(model)
    assert type(model.lm_head) is torch.nn.Linear
    torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_only_layers_and_the_square_are_trained(folder, tied):
    """Where the frozen model has tied its embeddings, the delta shares them; else it has both."""
    frozen = load_model(folder / "template", device="cpu").model
    if tied:
        frozen.lm_head.weight = frozen.get_input_embeddings().weight
    model = delta_of_layers(frozen, 1)
    make_trainable(model)
    head = model.get_output_embeddings()
    assert torch.equal(head.embeddings.weight, frozen.lm_head.weight)
    assert (head.embeddings.weight is model.get_input_embeddings().weight) == tied
    held = [name for name, one in model.named_parameters() if not one.requires_grad]
    assert held == ["model.embed_tokens.weight", "lm_head.embeddings.weight"][: 2 - tied]
    assert head.square.weight.requires_grad


def test_a_full_head_is_trained_whole(template):
    model = delta_of_layers(template.model, 1, head="full")
    make_trainable(model)
    assert model(torch.arange(1, 9)[None]).logits.abs().max() == 0
    assert all(one.requires_grad for one in model.parameters())


@pytest.mark.parametrize("objective", ["sft", "kl"])
def test_a_square_head_has_the_losses_and_gradients_of_a_plain_one(folder, template, objective):
    """The plain one's gradient, sent through the product: of `E @ S` it is `E.T @ gradient`."""
    grads = []
    for plain in (False, True):
        start = new_delta(template, layers=1)
        torch.manual_seed(0)
        square = torch.nn.init.normal_(start.model.lm_head.square.weight, std=0.1)
        make_trainable(start.model)
        if plain:
            fold(start.model)
        delta = load_delta(start, template.tokenizer, num_logits=template.num_logits)
        rows = [read_examples(folder / f"{name}.jsonl").rows for name in ("data", "retain")]
        samples = [fitting_samples(template, some, PROMPT_TEMPLATE, delta).samples for some in rows]
        batches = dict(zip(("data", "retain"), map(sample_batch, samples), strict=True))
        module = FusedObjective(delta, template.model, objective, 0.7)
        loss = module(batches, {name: len(batch.targets) for name, batch in batches.items()})
        loss.backward()
        layer = start.model.get_decoder().layers[0].mlp.up_proj.weight.grad
        found = start.model.lm_head.weight.grad if plain else square.grad
        if plain:
            found = template.model.lm_head.weight.T @ found
        grads.append((loss, layer, found, *module.sums(batches["data"]).sum(0)))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_saved_is_a_plain_model(folder, template, tmp_path):
    returned = run(folder, template, tmp_path / "out").loaded.model
    made, last = map(
        AutoModelForCausalLM.from_pretrained, (tmp_path / "out", tmp_path / "out/checkpoint-9")
    )
    assert type(made.lm_head) is torch.nn.Linear
    assert made.lm_head.weight.equal(last.lm_head.weight)
    assert returned.lm_head.weight.equal(made.lm_head.weight)
    assert not (tmp_path / "out/square.safetensors").exists()
