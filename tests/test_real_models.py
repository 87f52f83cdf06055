"""Steered decoding with the real models that packages ship; skipped where these are not there."""

import pytest
import torch

from cmc_runtime import Sampling, generate, load_delta, load_model
from cmc_runtime.errors import PackageError
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.packaged import packaged_model
from cmc_runtime.training.new_delta import delta_of_layers

PROMPTS = ["The capital of France is", "猫は", "def f(x):\n", "السلام", "🙂🌧️ means"]
NAMES = ["smollm2-135m", "gemma3-270m"]


@pytest.fixture(scope="module")
def models():
    try:
        for name in NAMES:
            packaged_model(name)
    except PackageError as error:
        pytest.skip(str(error))
    return {name: load_model(name, device="cpu") for name in NAMES}


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]], ids="<-".join)
def test_steered_text_is_fusing_by_hand(models, names):
    """A batch of three, rolled back by different amounts, against uncached forwards."""
    user, other = (models[name] for name in names)
    start = LoadedModel(delta_of_layers(other.model, 2).eval(), other.tokenizer, "two layers")
    with torch.no_grad():  # not a no-op, and not so strong that nothing sensible is written
        head = start.model.get_output_embeddings().weight
        head.copy_(0.1 * other.model.get_output_embeddings().weight)
    delta = load_delta(start, user.tokenizer, num_logits=user.num_logits)
    made = generate(user, PROMPTS, delta, alpha=0.5, sampling=Sampling(12), batch_size=3)
    index = delta.tensors.index.long()
    for completion in made:
        ids = user.tokenizer(completion.prompt)["input_ids"]
        context = delta.context(completion.prompt)
        for token_id in completion.token_ids:
            with torch.inference_mode():
                base = user.model(torch.tensor([ids])).logits[0, -1]
                read = start.model(torch.tensor([context.ids])).logits[0, -1]
            fused = base + 0.5 * torch.where(index >= 0, read[index.clamp(min=0)], 0.0)
            assert fused[token_id] >= fused.max() - 1e-2  # float32, in batches of other sizes
            ids = [*ids, token_id]
            context.append(token_id)


@pytest.mark.parametrize("name", NAMES)
def test_alpha_zero_is_the_model_alone(models, name):
    user, other = models[name], models[NAMES[name == NAMES[0]]]
    delta = load_delta(other, user.tokenizer, num_logits=user.num_logits)
    alone, steered = (
        [
            one.token_ids
            for one in generate(user, PROMPTS[:3], steering, alpha=0.0, sampling=Sampling(8))
        ]
        for steering in (None, delta)
    )
    assert steered == alone
