"""Requests of a server, each steered by the delta that it asks for, or by none."""

import json
import logging
import math
from random import Random

import pytest
import torch
from tiny_models import CHAT, save_model
from vllm_stand_in import BatchUpdate, Slots, config, context, engine_module, params

from cmc_runtime import load_delta, load_model
from cmc_runtime.engines.served import Asked, asked_for, configured_deltas, load_served
from pm_mined import OptionError, PmMinedError

NAMES = ["one", "two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user model, and two deltas: of its own vocabulary, and of another one."""
    folder = tmp_path_factory.mktemp("served")
    save_model(folder / "user", "byte-level")
    save_model(folder / "one", "byte-level", seed=1)
    save_model(folder / "two", "metaspace", seed=2, chat_template=CHAT)
    return folder


@pytest.fixture(scope="module")
def user(folder):
    return load_model(folder / "user", device="cpu")


@pytest.fixture(scope="module")
def deltas(folder, user):
    return deltas_for(folder, user)


def deltas_for(folder, user):
    options = {"num_logits": user.num_logits, "ends": user.ends, "device": "cpu"}
    return {name: load_delta(folder / name, user.tokenizer, **options) for name in NAMES}


def configuration(folder):
    return {"deltas": {name: str(folder / name) for name in NAMES}}


@pytest.fixture
def engine(monkeypatch):
    return engine_module(monkeypatch)


# --- What is configured, and asked for -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (None, None),
        ({}, None),
        ({"somebody": "else's"}, None),
        ({"delta": None, "alpha": None}, None),
        ({"delta": "one"}, Asked("one")),
        ({"delta": "two", "alpha": 2}, Asked("two", 2.0)),
        ({"delta": "two", "alpha": -0.5, "delta_prompt": " "}, Asked("two", -0.5, " ")),
    ],
)
def test_what_is_asked_for(arguments, asked):
    assert asked_for(arguments, NAMES) == asked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"delta": "three"}, "there is no delta 'three' here; expected one of one, two"),
        ({"delta": 1}, "it is 1; expected one of one, two"),
        ({"delta": ["one"]}, r"it is \['one'\]"),
        ({"alpha": 1.0}, "delta names what steers the request: there is none"),
        ({"delta_prompt": "x"}, "there is none; expected one of one, two"),
        ({"delta": "one", "alpha": "1"}, "alpha is '1'; expected a number"),
        ({"delta": "one", "alpha": True}, "alpha is True"),
        ({"delta": "one", "alpha": math.nan}, "alpha is nan"),
        ({"delta": "one", "alpha": 10**400}, r"alpha is \[\.\.\.\]"),
        ({"delta": "one", "delta_prompt": ""}, "delta_prompt is ''; expected a text"),
        ({"delta": "one", "delta_prompt": ["x"]}, "delta_prompt is"),
        ({"delta": "one", "delta_prompt": "\ud800"}, "delta_prompt is"),
    ],
)
def test_what_cannot_be_asked_for(arguments, said):
    with pytest.raises(OptionError, match=said) as refused:
        asked_for(arguments, NAMES)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_names_that_are_not_known_are_taken():
    assert asked_for({"delta": "three"}, None) == Asked("three")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "the configuration of cmc_runtime is None"),
        ([], "expected"),
        ({}, "expected"),
        ({"deltas": {}}, "expected"),
        ({"deltas": {"one": "a"}, "detlas": 1}, "detlas"),
        ({"deltas": {"one": 1}}, "delta one is 1; expected its folder"),
        ({"deltas": {"one": {"map": "x"}}}, "expected its folder"),
        ({"deltas": {"one": {"delta": "x", "alhpa": 1}}}, "the option 'alhpa'; expected adapter_"),
        ({"deltas": {"one": {"delta": "x", "window": "9"}}}, "window is '9'; expected int"),
        ({"deltas": {"one": {"delta": "x", "gate": "9"}}}, "gate is '9'; expected float"),
    ],
)
def test_a_configuration_of_another_form(given, said):
    with pytest.raises(OptionError, match=said):
        configured_deltas(given)


def test_options_of_a_delta(folder, user):
    given = {"deltas": {"two": {"delta": str(folder / "two"), "map": "exact", "gate": 1}}}
    served = load_served(
        given, str(folder / "user"), num_logits=user.num_logits, ends=[0], device="cpu"
    )
    assert served.deltas["two"].token_map.info.strategy["name"] == "exact"
    assert given["deltas"]["two"]["map"] == "exact"  # it is still the caller's


# --- The first interface -------------------------------------------------------------------------


def expected(deltas, base, arguments, prompt_ids, answer):
    """The steered row of a request, from nothing that was kept."""
    if arguments is None:
        return base
    delta = deltas[arguments["delta"]]
    request = delta.begin(arguments.get("delta_prompt") or prompt_ids, arguments.get("alpha"))
    for token_id in answer:
        request.append(token_id)
    has_something = all(text.context.ids for text in request.texts)
    return delta.fuse(base[None], [request])[0] if has_something else base


def assert_near(found, wanted):
    """Float32, summed in batches of other sizes."""
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def some_arguments(random):
    if random.random() < 0.3:
        return None
    arguments = {"delta": random.choice(NAMES)}
    if random.random() < 0.7:
        arguments["alpha"] = random.choice([0, 0.5, 1, -1.5])
    if random.random() < 0.5:
        arguments["delta_prompt"] = random.choice(["the quick", "日本語"])
    return arguments


def some_ids(random, least, most):
    return [random.randrange(300) for _ in range(random.randint(least, most))]


def changed(random, batch, directions):
    """Let requests of a batch end, begin and move as vLLM does: rows are always condensed.

    Args:
        random: Chance.
        batch: [arguments, prompt ids, answer] of each row.
        directions: Of a move one way, and of a swap.
    """
    one_way, swap = directions
    free = [row for row in range(len(batch)) if random.random() < 0.15]
    update = BatchUpdate(free[::-1], [], [])
    for _ in range(random.choice([0, 0, 1, 2])):
        request = [some_arguments(random), some_ids(random, 1, 6), some_ids(random, 0, 3)]
        row = free.pop(0) if free else len(batch)
        batch[row : row + 1] = [request]
        update.added.append((row, params(**(request[0] or {})), *request[1:]))
    while free:  # the last row that is used goes to the first that is not
        last = len(batch) - 1
        if last in free:
            free.remove(last)
        else:
            batch[free[0]] = batch[last]
            update.moved.append((last, free.pop(0), one_way))
        batch.pop()
    if len(batch) > 1 and random.random() < 0.3:
        one, other = random.sample(range(len(batch)), 2)
        batch[one], batch[other] = batch[other], batch[one]
        update.moved.append((one, other, swap))
    return update


@pytest.mark.parametrize("seed", range(8))
def test_requests_come_move_and_go(engine, folder, user, deltas, seed):
    """As in vLLM, ids of an answer are -1 until they are needed."""
    random = Random(seed)
    processor = engine.SteeringProcessor(
        config(folder / "user", cmc_runtime=configuration(folder)), torch.device("cpu"), False
    )
    directions = engine.MoveDirectionality.UNIDIRECTIONAL, engine.MoveDirectionality.SWAP
    batch = []
    for _ in range(25):
        update = changed(random, batch, directions)
        processor.update_state(update if any(update) else None)
        if not batch:
            continue
        for _, _, answer in batch:
            answer[:] = [random.randrange(300) if one == -1 else one for one in answer]
        base = torch.randn(len(batch), user.num_logits)
        fused = processor.apply(base.clone())
        for row, request in enumerate(batch):
            assert_near(fused[row], expected(deltas, base[row], *request))
        for _, _, answer in batch:
            answer += [-1] * (random.random() < 0.9)  # else its prompt is not read to the end yet
    processor.update_state(BatchUpdate(list(range(len(batch)))[::-1], [], []))
    assert not processor._rows


def test_unsteered_batches_are_left_alone(engine, folder):
    processor = engine.SteeringProcessor(
        config(folder / "user", cmc_runtime=configuration(folder)), torch.device("cpu"), False
    )
    assert not processor.is_argmax_invariant()
    processor.update_state(BatchUpdate([], [(0, params(), [1], [])], []))
    logits = torch.randn(1, 420)
    before = logits.clone()
    assert processor.apply(logits) is logits
    assert torch.equal(logits, before)


# --- The second interface ------------------------------------------------------------------------


def begun(random, states, processor, live):
    """Let requests end, whatever the processor knows of it, and begin in free slots."""
    for slot in [slot for slot in live if random.random() < 0.15]:
        del live[slot]
    for slot in set(range(states.max_num_reqs)) - set(live):
        if random.random() < 0.5:
            prompt = some_ids(random, 1, 6)
            answer = some_ids(random, 0, 3)  # of one that was preempted
            live[slot] = [some_arguments(random), prompt, answer, 0]
            states.prompt_len.np[slot] = len(prompt)
            states.prefill_len.np[slot] = len(prompt) + len(answer)
            is_steered = processor.add_request(slot, params(**(live[slot][0] or {})))
            assert is_steered == (live[slot][0] is not None)


def rows_of_step(random, states, live):
    """The layout of a step, what each of its rows should be steered by, and the drafts by slot."""
    rows, wanted, drafts = [], [], {}
    for slot in random.sample(sorted(live), len(live)):
        arguments, prompt, answer, done = live[slot]
        ids = prompt + answer
        states.commit(slot, ids)
        done = live[slot][3] = random.randint(min(done + 1, len(ids)), len(ids))
        is_read = done == len(ids)
        drafts[slot] = some_ids(random, 0, 2) if is_read else []
        for place, token_id in enumerate([ids[done - 1], *drafts[slot]]):
            rows.append((slot, place, token_id, done - 1 + place))
            wanted.append((arguments if is_read else None, prompt, answer + drafts[slot][:place]))
    return rows, wanted, drafts


@pytest.mark.parametrize("seed", range(8))
def test_slots_and_drafts(engine, folder, user, deltas, seed):
    """Of each request the committed tokens, then drafts, of which some are taken."""
    random = Random(seed)
    states = Slots(4, 128)
    processor = engine.SteeringProcessorV2(
        config(folder / "user", cmc_runtime=configuration(folder)), states
    )
    live = {}  # by slot: [arguments, prompt ids, answer, how many of their tokens were read]
    for _ in range(25):
        begun(random, states, processor, live)
        rows, wanted, drafts = rows_of_step(random, states, live)
        if not rows:
            continue
        base = torch.randn(len(rows), user.num_logits)
        fused = processor.apply(base.clone(), context(rows))
        for row, one in enumerate(wanted):
            assert_near(fused[row], expected(deltas, base[row], *one))
        for slot, request in live.items():
            _, prompt, answer, done = request
            if done == len(prompt) + len(answer):
                taken = random.randint(0, len(drafts[slot]))
                answer += [*drafts[slot][:taken], random.randrange(300)]
                request[3] = len(prompt) + len(answer)


def test_a_vllm_without_the_second_interface(monkeypatch):
    module = engine_module(monkeypatch, without=["vllm.v1.worker.gpu.sample"])
    assert module.SteeringProcessorV2.__mro__[1:] == (object,)


def test_no_vllm(monkeypatch):
    with pytest.raises(ImportError, match="needs vLLM with custom logits processors"):
        engine_module(monkeypatch, without=["vllm"])


# --- Errors --------------------------------------------------------------------------------------


class Frontend:
    """What validates requests in vLLM has the configuration."""

    def __init__(self, vllm_config):
        self.vllm_config = vllm_config

    def validate(self, processor, sampling_params):
        processor.validate_params(sampling_params)


@pytest.mark.parametrize("name", ["SteeringProcessor", "SteeringProcessorV2"])
def test_a_wrong_request_is_refused_where_it_arrives(engine, folder, monkeypatch, name):
    processor = getattr(engine, name)
    frontend = Frontend(config(folder / "user", cmc_runtime=configuration(folder)))
    frontend.validate(processor, params())
    frontend.validate(processor, params(delta="one", alpha=0.5))
    with pytest.raises(ValueError, match="there is no delta 'three' here"):
        frontend.validate(processor, params(delta="three"))
    nothing_said = Frontend(config(folder / "user"))
    nothing_said.validate(processor, params(delta="three"))  # nobody knows what is there
    monkeypatch.setenv(engine.VARIABLE, json.dumps(configuration(folder)))
    with pytest.raises(ValueError, match="there is no delta 'three' here"):
        nothing_said.validate(processor, params(delta="three"))
    with pytest.raises(ValueError, match="there is no delta 'three' here"):
        processor.validate_params(params(delta="three"))


def test_no_configuration(engine, folder, monkeypatch):
    with pytest.raises(OptionError, match="no deltas are named: give --additional-config"):
        engine.SteeringProcessor(config(folder / "user"), torch.device("cpu"), False)
    monkeypatch.setenv(engine.VARIABLE, "{")
    with pytest.raises(OptionError, match="CMC_RUNTIME_SERVES is no JSON"):
        engine.SteeringProcessor(config(folder / "user"), torch.device("cpu"), False)
    monkeypatch.setenv(engine.VARIABLE, json.dumps({"deltas": {"one": str(folder / "none")}}))
    with pytest.raises(PmMinedError, match="none"):
        engine.SteeringProcessor(config(folder / "user"), torch.device("cpu"), False)


@pytest.mark.parametrize("arguments", [{"delta": "three"}, {"delta": "one"}])
def test_what_cannot_be_followed_ends_and_leaves_others_alone(
    engine, folder, deltas, caplog, arguments
):
    """One with an unknown name, and one without any ids of its prompt."""
    processor = engine.SteeringProcessor(
        config(folder / "user", cmc_runtime=configuration(folder)), torch.device("cpu"), False
    )
    added = [(0, params(delta="one"), [5], []), (1, params(**arguments), None, [])]
    with caplog.at_level(logging.ERROR):
        processor.update_state(BatchUpdate([], added, []))
    (record,) = caplog.records
    assert "a request ends at once" in record.message
    base = torch.randn(2, 420)
    fused = processor.apply(base.clone())
    assert_near(fused[0], expected(deltas, base[0], {"delta": "one"}, [5], []))
    assert fused[1].argmax() == 0
    assert fused[1].softmax(-1)[0] == 1
