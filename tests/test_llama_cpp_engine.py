"""Steering by the interface of llama-cpp-python: `processor(input_ids, scores) -> scores`."""

import numpy as np
import pytest
import torch
from tiny_models import save_model

from cmc_runtime import load_delta, load_model
from cmc_runtime.conversion.to_gguf import write_gguf
from cmc_runtime.engines.llama_cpp import SteeringProcessor, load_delta_for
from pm_mined import OptionError


class Llama:
    """As much of llama-cpp-python's class as is needed, on a model of transformers."""

    def __init__(self, folder, path):
        self._model = load_model(folder, device="cpu", dtype=torch.float32)
        self.model_path = str(path)

    def n_vocab(self):
        return self._model.num_logits

    def tokens(self, ids, count, processor, choose=np.argmax):
        """What `Llama.generate` does: the ids so far are one array, the scores another."""
        ids = np.array(ids, np.intc)
        for _ in range(count):
            with torch.inference_mode():
                logits = self._model.model(torch.tensor(ids[None].astype(np.int64))).logits[0, -1]
            scores = logits.numpy().astype(np.single)
            scores[:] = processor(ids, scores)
            yield scores.copy()
            ids = np.append(ids, np.intc(choose(scores)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama_cpp")
    save_model(folder / "user", "byte-level")
    save_model(folder / "delta", "metaspace", seed=1)
    return folder


@pytest.fixture(scope="module")
def llama(folder):
    loaded = load_model(folder / "user", device="cpu")
    write_gguf(loaded, folder / "user.gguf")
    return Llama(folder / "user", folder / "user.gguf")


@pytest.fixture(scope="module")
def delta(folder, llama):
    loaded = load_model(folder / "delta", device="cpu", dtype=torch.float64)
    return load_delta_for(llama, loaded)


def test_the_ends_are_those_of_the_file(folder, llama, delta):
    assert delta.tensors.index[0] == delta.end
    other = load_delta_for(llama, delta.loaded, ends=[0, 5])
    assert other.tensors.index[[0, 5]].tolist() == [delta.end] * 2


@pytest.mark.parametrize("prompt", ["the quick", None])
def test_each_step_is_that_of_float64(folder, llama, delta, prompt):
    """By a delta of transformers' tokenizer, from contexts that are begun anew at each step."""
    tokenizer = load_model(folder / "user", device="cpu").tokenizer
    same = load_delta(delta.loaded, tokenizer, num_logits=llama.n_vocab(), ends=[0], device="cpu")
    ids, answer, given = tokenizer("the quick brown")["input_ids"], [], []
    processor = SteeringProcessor(delta, prompt, 0.7)

    def recorded(input_ids, scores):
        given.append(torch.tensor(scores, dtype=torch.float64))
        return processor(input_ids, scores)

    for scores in llama.tokens(ids, 6, recorded):
        request = same.begin(prompt or ids, 0.7)
        for token_id in answer:
            request.append(token_id)
        expected = same.fuse(given[-1][None], [request])[0].numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=1e-5)
        answer.append(int(scores.argmax()))


def test_one_answer_after_the_other(llama, delta):
    """As by a processor of its own each, the second prompt going on from the first answer too."""
    processor = SteeringProcessor(delta)
    first = list(llama.tokens([5, 6, 7], 3, processor))
    longer = [5, 6, 7, *(int(one.argmax()) for one in first), 9, 8]
    for prompt in (longer, [7, 6], [5, 6, 7]):
        found = list(llama.tokens(prompt, 3, processor))
        alone = list(llama.tokens(prompt, 3, SteeringProcessor(delta)))
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_one_with_a_prompt_serves_one_answer(llama, delta):
    processor = SteeringProcessor(delta, "the quick")
    list(llama.tokens([5, 6, 7], 2, processor))
    with pytest.raises(OptionError, match="serves one answer: make another"):
        list(llama.tokens([7, 6], 1, processor))


def test_several_steerings_and_none(llama, delta):
    twice = SteeringProcessor([delta, delta], alpha=0.5)
    once = SteeringProcessor(delta, alpha=1.0)
    pairs = zip(llama.tokens([5, 6], 3, twice), llama.tokens([5, 6], 3, once), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-3)
    scores = np.ones(llama.n_vocab(), np.single)
    assert SteeringProcessor(delta, alpha=0)(np.array([5], np.intc), scores).tolist() == [1] * 420


def test_the_same_ids_again_are_the_same_step(llama, delta):
    """llama.cpp samples again where a grammar refuses a token."""
    processor = SteeringProcessor(delta)
    ids, scores = np.array([5, 6, 7], np.intc), np.zeros(llama.n_vocab(), np.single)
    assert processor(ids, scores).tolist() == processor(ids, scores).tolist()
