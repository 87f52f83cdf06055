"""GGUF files that are written here, in llama.cpp itself: ids of texts, and logits.

`pip install --no-deps xllamacpp` brings it; without, these tests are skipped.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from unicodedata import normalize

import pytest
import torch
from gguf_tokenizers import sentencepiece_tokenizer
from test_convert import MODELS, save

from cmc_runtime.conversion.to_gguf import write_gguf
from cmc_runtime.models.load import load_model
from pm_mined.tokenizer.llama_cpp_fields import PROBES

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is missing")

ASK = """
import json, sys, urllib.request, xllamacpp
given = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = given["path"]
params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 128, 1, 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.port = 0
server = xllamacpp.Server(params)
def ask(where, **body):
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + where, data, kind)
    return json.load(urllib.request.urlopen(request))
ids = [ask("/tokenize", content=text)["tokens"] for text in given["texts"]]
answer = ask(
    "/completion", prompt=given["prompt"], n_predict=8, ignore_eos=True, temperature=0,
    n_probs=given["width"], cache_prompt=False,
)
steps = [
    {one["id"]: one["logprob"] for one in step["top_logprobs"]}
    for step in answer["completion_probabilities"]
]
print("ANSWER", json.dumps([ids, answer["tokens"], steps]))
"""


def ask(path, loaded, prompt, texts):
    """The ids of the texts, and log-probabilities of the next token after the prompt."""
    given = {"path": str(path), "prompt": prompt, "texts": texts, "width": loaded.num_logits}
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(given), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = next(one for one in done.stdout.splitlines() if one.startswith("ANSWER"))
    ids, _, steps = json.loads(answer.removeprefix("ANSWER"))
    return ids, torch.tensor([steps[0][str(i)] for i in range(loaded.num_logits)])


def whole_next_token(loaded):
    """A prompt, and float [logits] log-probabilities, of which the largest is of whole letters.

    The server gives no probabilities of a token that ends within a letter.
    """
    ids = loaded.tokenizer("the quick brown fox jumps over the lazy dog")["input_ids"]
    with torch.no_grad():
        rows = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    likeliest = [loaded.tokenizer.decode([token_id]) for token_id in rows.argmax(-1)]
    last = max(i for i, text in enumerate(likeliest) if "\ufffd" not in text)
    return ids[: last + 1], rows[last]


@pytest.mark.parametrize("name", [*MODELS, "pieces"])
def test_llama_cpp_agrees(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tokenizer = sentencepiece_tokenizer(tmp_path) if name == "pieces" else None
    folder = save(tmp_path / "delta", "llama" if tokenizer else name, tokenizer)
    loaded = load_model(folder, device="cpu")
    write_gguf(loaded, tmp_path / "delta.gguf")
    texts = [normalize("NFC", text) for text in PROBES]  # as Qwen's tokenizer does
    if tokenizer is not None:  # it puts no space before a space
        texts = [text.lstrip() for text in texts]
    prompt, expected = whole_next_token(loaded)
    ids, found = ask(tmp_path / "delta.gguf", loaded, prompt, texts)
    assert ids == [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert torch.allclose(found, expected, atol=0.01)  # its GELU is a table
