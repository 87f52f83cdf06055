"""The real vLLM on a CPU: `.ci/engines` runs this, in an environment that has it."""

import json
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from random import Random

import pytest
import torch
from test_served import configuration, deltas_for, expected
from tiny_models import save_model

from cmc_runtime import load_model

vllm = pytest.importorskip("vllm")
pytestmark = pytest.mark.engine
ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
PROCESSOR = "cmc_runtime.engines.vllm:SteeringProcessor"
LONGEST = 192
PROMPTS = ["the quick brown fox", "日本語のテキスト", "crème brûlée, 12 euros", "a", "don't, can't"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user model with heads as vLLM has kernels for, and two deltas."""
    folder = tmp_path_factory.mktemp("vllm")
    save_model(folder / "user", "byte-level", hidden_size=128)
    save_model(folder / "one", "byte-level", seed=1)
    save_model(folder / "two", "metaspace", seed=2)
    return folder


@pytest.fixture(scope="module")
def user(folder):
    return load_model(folder / "user", device="cpu")


@pytest.fixture(scope="module")
def deltas(folder, user):
    return deltas_for(folder, user)


@pytest.fixture(scope="module")
def options(folder):
    """Those of an engine: prompts are read in pieces, and memory is for some requests only."""
    return {
        "model": str(folder / "user"),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": LONGEST,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "enable_chunked_prefill": True,
        "num_gpu_blocks_override": 6,
        "logits_processors": [PROCESSOR],
        "additional_config": {"cmc_runtime": configuration(folder)},
    }


@pytest.fixture(scope="module")
def engine(options):
    """One whose parts are all in this process, stepped by hand."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**options))


def some_request(random):
    arguments = None
    if random.random() < 0.75:
        arguments = {"delta": random.choice(["one", "two"])}
        if random.random() < 0.7:
            arguments["alpha"] = random.choice([0, 0.5, 1, 1.5, -1])
        if random.random() < 0.5:
            arguments["delta_prompt"] = random.choice(PROMPTS)
    prompt = " ".join(random.choice(PROMPTS) for _ in range(random.randint(1, 6)))
    return prompt, arguments, random.randint(1, 24)


def run_all(engine, requests, random, *, aborts=frozenset()):
    """Add requests at random times, step until all have ended; the answers by number."""
    waiting, answers, step = list(enumerate(requests)), {}, 0
    while waiting or engine.has_unfinished_requests():
        while waiting and random.random() < 0.5:
            number, (prompt, arguments, length) = waiting.pop(0)
            params = vllm.SamplingParams(
                max_tokens=length, temperature=0, ignore_eos=True, extra_args=arguments
            )
            engine.add_request(str(number), prompt, params)
        for output in engine.step():
            number = int(output.request_id)
            answers[number] = list(output.outputs[0].token_ids)
            if number in aborts and len(answers[number]) >= 2:
                engine.abort_request([output.request_id])
        step += 1
    return answers


def is_right(user, deltas, request, answer):
    """True if each token is the likeliest, after those before it, as computed by torch alone."""
    prompt, arguments, _ = request
    prompt_ids = user.tokenizer(prompt)["input_ids"]
    ids = torch.tensor([prompt_ids + answer])
    with torch.inference_mode():
        base = user.model(ids).logits[0, len(prompt_ids) - 1 : -1]
    for place, token_id in enumerate(answer):
        row = expected(deltas, base[place], arguments, prompt_ids, answer[:place])
        if row[token_id] < row.max() - 1e-3:
            return False
    return True


def test_two_hundred_requests(engine, user, deltas):
    """They arrive at random times, with random strengths; some are taken back."""
    random = Random(0)
    requests = [some_request(random) for _ in range(200)]
    aborts = set(random.sample(range(200), 20))
    answers = run_all(engine, requests, random, aborts=aborts)
    assert len(answers) == 200
    for number, answer in answers.items():
        assert len(answer) == requests[number][2] or number in aborts
        assert is_right(user, deltas, requests[number], answer), requests[number]


def test_several_answers_and_stop_strings(engine, user, deltas):
    params = vllm.SamplingParams(
        n=3,
        max_tokens=16,
        temperature=2.0,
        seed=5,
        ignore_eos=True,
        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        extra_args={"delta": "one"},
    )
    engine.add_request("several", PROMPTS[0], params)
    stop = vllm.SamplingParams(
        max_tokens=16, temperature=0, stop=["e"], ignore_eos=True, extra_args={"delta": "two"}
    )
    engine.add_request("stop", PROMPTS[1], stop)
    ended = {}
    while engine.has_unfinished_requests():
        ended |= {one.request_id: one.outputs for one in engine.step() if one.finished}
    assert len(ended["several"]) == 3
    assert len({tuple(one.token_ids) for one in ended["several"]}) == 3
    (stopped,) = ended["stop"]
    assert is_right(user, deltas, (PROMPTS[1], {"delta": "two"}, 16), list(stopped.token_ids))


def test_finished_requests_are_freed(engine):
    """Ten thousand short ones: nothing is kept of them, and the process does not grow."""
    (processor,) = (
        one
        for one in _runner(engine).input_batch.logitsprocs.all
        if type(one).__name__ == "SteeringProcessor"
    )
    random = Random(1)
    grown = []
    for count in (2_000, 4_000, 4_000):
        requests = [(PROMPTS[3], {"delta": random.choice(["one", "two"])}, 2)] * count
        run_all(engine, requests, random)
        engine.step()
        grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert not processor._rows
    for delta in processor._served.deltas.values():
        assert not delta.model._live
    assert grown[2] - grown[1] < 20_000  # KiB


def _runner(engine):
    return engine.model_executor.driver_worker.worker.model_runner


# --- The server ----------------------------------------------------------------------------------


def ask(port, **body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "tensor parallel"])
def server(options, tmp_path_factory, request):
    """The port of a server whose model is in one process, or shared by two."""
    port = 18_000 + os.getpid() % 1000
    log = tmp_path_factory.mktemp("server") / "log"
    flags = {
        "--model": options["model"],
        "--dtype": "float32",
        "--max-model-len": str(LONGEST),
        "--max-num-seqs": "8",
        "--tensor-parallel-size": str(request.param),
        "--logits-processors": PROCESSOR,
        "--additional-config": json.dumps(options["additional_config"]),
        "--port": str(port),
        "--host": "127.0.0.1",
        "--served-model-name": "user",
    }
    words = [word for pair in flags.items() for word in pair]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--enforce-eager"], env=os.environ | ENVIRONMENT, stdout=file, stderr=file
        )
    try:
        _wait(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def _wait(process, port, log):
    for _ in range(400):
        if process.poll() is not None:
            pytest.fail(log.read_text()[-3000:])
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
        except OSError:
            time.sleep(1)
        else:
            return
    pytest.fail(log.read_text()[-3000:])


def test_the_server_steers(server, user, deltas):
    arguments = {"delta": "one", "alpha": 0.8, "delta_prompt": "the quick"}
    body = {"model": "user", "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0}
    body |= {"vllm_xargs": arguments, "return_token_ids": True, "ignore_eos": True}
    made = ask(server, **body)
    token_ids = made["choices"][0]["token_ids"]
    assert is_right(user, deltas, (PROMPTS[0], arguments, 8), token_ids)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"delta": "three"}, "there is no delta 'three' here; expected one of one, two"),
        ({"delta": "one", "alpha": "much"}, "alpha is 'much'; expected a number"),
        ({"alpha": 1}, "delta names what steers the request"),
    ],
)
def test_a_wrong_request_is_answered_with_400(server, arguments, said):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, model="user", prompt="x", max_tokens=1, vllm_xargs=arguments)
    assert refused.value.code == 400
    message = json.load(refused.value)["error"]["message"]
    assert said in message
    assert "\n" not in message
