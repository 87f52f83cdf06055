"""Samples and their batches: what each model reads, and where it predicts which token."""

import pytest
import torch
from tiny_models import CHAT, save_model

from cmc_runtime import load_delta, load_model
from cmc_runtime.contexts.tree_attention import tree_inputs
from cmc_runtime.data.samples import SampleMaker, sample_batch
from cmc_runtime.models.output_head import OutputHead, hidden_states
from cmc_runtime.models.prompts import check_prompt_template, encode_prompt, response_lead
from pm_mined import OptionError

PROMPT_TEMPLATE = "Q: {prompt}\nA: {response}"
ROWS = [
    ("the quick brown", "fox jumps over"),
    ("日本語", "日本語のテキスト 🙂"),
    ("a", "x"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("samples")
    save_model(made / "user", "byte-level", seed=0, chat_template=CHAT)
    save_model(made / "delta", "metaspace", seed=1)
    return made


@pytest.fixture(scope="module")
def user(folder):
    return load_model(folder / "user", device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def delta(folder, user):
    return load_delta(
        folder / "delta",
        user.tokenizer,
        num_logits=user.num_logits,
        prompt_template=PROMPT_TEMPLATE,
        dtype=torch.float64,
    )


def made(user, delta, prompt_template=PROMPT_TEMPLATE, **options):
    maker = SampleMaker(user, prompt_template, delta, **options)
    return [maker.make(*row, number) for number, row in enumerate(ROWS, 1)]


def test_the_ids_are_the_prompt_the_response_and_its_end(user, delta):
    for (prompt, response), sample in zip(ROWS, made(user, delta), strict=True):
        decode = user.tokenizer.decode
        assert decode(sample.ids[: sample.num_prompt]) == f"Q: {prompt}\nA:"
        rest = sample.ids[sample.num_prompt :]
        assert decode(rest[: sample.num_text]) == f" {response}"
        assert rest[sample.num_text :] == [user.tokenizer.convert_tokens_to_ids("<|endoftext|>")]
        assert sample.num_chars == len(response) + 1
        assert sample.num_targets == sample.num_text + 1


def test_a_chat_has_no_space_before_the_response(user):
    (sample, *_) = made(user, None, "chat")
    assert user.tokenizer.decode(sample.ids) == (
        "<|user|>the quick brown\n<|assistant|>fox jumps over<|endoftext|>"
    )
    assert sample.tree is None


def test_the_prompt_of_a_sample_is_the_one_that_is_generated_from(user, delta):
    for (prompt, _), sample in zip(ROWS, made(user, delta), strict=True):
        assert sample.ids[: sample.num_prompt] == encode_prompt(
            user.tokenizer, prompt, PROMPT_TEMPLATE
        )


def test_batches_give_the_states_of_each_sample_alone(user, delta):
    samples = made(user, delta)
    batch = sample_batch(samples)
    head = OutputHead.of(user.model)
    states = batch.user_states(user.model)
    found = head(states).split([sample.num_targets for sample in samples])
    read = batch.tree.read(hidden_states_of_tree(delta.loaded.model, batch.tree)).split(
        [sample.num_targets for sample in samples]
    )
    for row, sample in enumerate(samples):
        ids = torch.tensor([sample.ids])
        expected = user.model(ids).logits[0, sample.num_prompt - 1 : -1]
        assert torch.allclose(found[row], expected, atol=1e-9)
        assert batch.targets[batch.sample_of == row].tolist() == sample.ids[sample.num_prompt :]
        is_text = batch.is_text[batch.sample_of == row].tolist()
        assert is_text == [True] * sample.num_text + [False]
        context = delta.context(ROWS[row][0])
        for i, token_id in enumerate(sample.ids[sample.num_prompt :]):
            alone = hidden_states(delta.loaded.model, torch.tensor([context.ids]))[0, -1]
            assert torch.allclose(read[row][i], alone, atol=1e-9)
            context.append(token_id)
    assert batch.rows == [1, 2, 3]


def hidden_states_of_tree(model, tree):
    return model.get_decoder()(**tree_inputs(model, tree)).last_hidden_state


def test_cached_states_take_the_place_of_the_model(user, delta):
    samples = made(user, delta)
    states = torch.randn(sum(sample.num_targets for sample in samples), 32)
    assert sample_batch(samples, states).user_states(None) is states


def test_without_re_encoding_trees_are_chains(user, delta):
    assert not all(sample.tree.is_chain for sample in made(user, delta))
    assert all(sample.tree.is_chain for sample in made(user, delta, reencode=False))


def test_what_leads_to_a_response():
    assert response_lead("Q: {prompt} A:  {response}") == "  "
    assert response_lead("Q: {prompt}\nA:\n{response}") == ""
    assert response_lead("Q: {prompt} ") == response_lead("chat") == ""


@pytest.mark.parametrize(
    "prompt_template", ["{response}", "{prompt}{response}!", "{prompt}{prompt}", ""]
)
def test_what_is_no_prompt_template(prompt_template):
    with pytest.raises(OptionError, match="at its end, such as"):
        check_prompt_template(prompt_template)
