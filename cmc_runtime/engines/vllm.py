"""Steering in vLLM: requests of one batch, each by its own delta and strength, or by none.

vLLM loads one of the two classes by its path (`--logits-processors`): `SteeringProcessor` for the
interface of model runner 1, `SteeringProcessorV2` for that of model runner 2. Deltas are named in
`--additional-config '{"cmc_runtime": {"deltas": {"NAME": "FOLDER"}}}'`, or by the same object
without its outer name in the environment variable `CMC_RUNTIME_SERVES`. A request asks for one by
`vllm_xargs={"delta": "NAME", "alpha": 0.8, "delta_prompt": "..."}` (`SamplingParams.extra_args`).

Tested with vLLM 0.32. Each rank of a tensor-parallel group has all logits and runs the delta.
"""

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor

from pm_mined import OptionError

from .served import Asked, ServedDeltas, ServedRequest, asked_for, configured_deltas, load_served

try:
    from vllm.v1.sample.logits_processor.interface import LogitsProcessor, MoveDirectionality
except ImportError as error:
    raise ImportError(
        f"cmc_runtime.engines.vllm needs vLLM with custom logits processors, as 0.32 has: {error}"
    ) from error
try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import (
        LogitsProcessor as LogitsProcessorV2,
    )
except ImportError:  # an earlier vLLM, which has no use for the second class
    LogitsProcessorV2 = object

VARIABLE = "CMC_RUNTIME_SERVES"
KEY = "cmc_runtime"


class SteeringProcessor(LogitsProcessor):  # type: ignore[misc] # vLLM is not installed where types are checked
    """Steers the rows of a batch, in vLLM's first interface.

    Raises:
        OptionError: no deltas are configured, or in another form.
        PmMinedError: a delta cannot be loaded.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        del is_pin_memory
        self._served = _load(vllm_config, device)
        # With each request the list of its answer's tokens, which vLLM adds to.
        self._rows: dict[int, tuple[ServedRequest, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request with a wrong argument: vLLM answers HTTP 400.

        Raises:
            ValueError: an argument is wrong.
        """
        _validate(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """It is not: steering changes which token is the likeliest."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests that begin, move and end."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._drop(row)
        for row, params, prompt_ids, answer in batch_update.added:
            self._drop(row)
            asked = asked_for(params.extra_args, None)
            if asked is not None:
                self._rows[row] = self._served.begin(asked, prompt_ids), answer
        for source, target, direction in batch_update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = other
            elif other is not None:
                other[0].remove()

    def _drop(self, row: int) -> None:
        if row in self._rows:
            self._rows.pop(row)[0].remove()

    def apply(self, logits: Tensor) -> Tensor:
        """Float [requests, user logits], steered in place."""
        if not self._rows:
            return logits
        for request, answer in self._rows.values():
            request.append(answer[request.length :])
        return self._served.steer(logits, {row: one for row, (one, _) in self._rows.items()})


class SteeringProcessorV2(LogitsProcessorV2):  # type: ignore[misc] # as above
    """Steers the rows of a batch, in vLLM's second interface.

    A request has a slot, and a row for each token that a draft model proposed and one more. What is
    kept of a request is freed when its slot is used again.

    Raises:
        OptionError: no deltas are configured, or in another form.
        PmMinedError: a delta cannot be loaded.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._served = _load(vllm_config, req_states.device)
        self._states = req_states
        self._asked: dict[int, Asked] = {}
        self._requests: dict[int, ServedRequest] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request with a wrong argument: vLLM answers HTTP 400.

        Raises:
            ValueError: an argument is wrong.
        """
        _validate(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take a slot for a request, and say whether it is steered."""
        self._asked.pop(req_idx, None)
        if req_idx in self._requests:
            self._requests.pop(req_idx).remove()
        asked = asked_for(sampling_params.extra_args, None)
        if asked is None:
            return False
        self._asked[req_idx] = asked
        return True

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Float [rows, user logits], steered in place."""
        if not any(slot in self._asked for slot in ctx.idx_mapping_np.tolist()):
            return logits
        layout = [ctx.expanded_idx_mapping, ctx.expanded_local_pos, ctx.input_ids, ctx.pos]
        each = torch.stack([one.long() for one in layout], dim=1).tolist()  # one copy to the host
        rows: dict[int, ServedRequest] = {}
        drafts: list[ServedRequest] = []
        for row, (slot, place, token_id, position) in enumerate(each):
            known = position + 1
            if slot not in self._asked or known < self._states.prefill_len.np[slot]:
                continue  # not steered, or its prompt is not read to the end
            if place == 0:
                rows[row] = self._committed(slot, token_id, known)
                continue
            drafts.append(rows[row - 1].copy())
            drafts[-1].append([token_id])
            rows[row] = drafts[-1]
        self._served.steer(logits, rows)
        for draft in drafts:  # what is accepted of them comes as committed tokens
            draft.remove()
        return logits

    def _committed(self, slot: int, last: int, known: int) -> ServedRequest:
        """The request of a slot, with its first `known` tokens, of which `last` is the last."""
        length = int(self._states.prompt_len.np[slot])
        if slot not in self._requests:
            asked = self._asked[slot]
            prompt_ids = self._tokens(slot, 0, length) if asked.prompt is None else None
            self._requests[slot] = self._served.begin(asked, prompt_ids)
        request = self._requests[slot]
        start = length + request.length
        if start < known:
            request.append([last] if start == known - 1 else self._tokens(slot, start, known))
        return request

    def _tokens(self, slot: int, start: int, stop: int) -> list[int]:
        tokens: list[int] = self._states.all_token_ids.gpu[slot, start:stop].tolist()
        return tokens


# --- The configuration ---------------------------------------------------------------------------


def _load(vllm_config: Any, device: torch.device) -> ServedDeltas:
    """The deltas for the model of a configuration."""
    configuration = _configuration(vllm_config)
    if configuration is None:
        raise OptionError(
            "no deltas are named: give --additional-config "
            f'\'{{"{KEY}": {{"deltas": {{"NAME": "FOLDER"}}}}}}\', or set {VARIABLE}'
        )
    model = vllm_config.model_config
    tokenizer, revision = model.tokenizer, model.tokenizer_revision
    generation: dict[str, Any] = model.try_get_generation_config() or {}
    return load_served(
        *(configuration, tokenizer if revision is None else f"{tokenizer}@{revision}"),
        num_logits=model.get_vocab_size(),
        ends=generation.get("eos_token_id", getattr(model.hf_text_config, "eos_token_id", None)),
        device=device,
    )


def _configuration(vllm_config: Any) -> Any:
    """The object of `--additional-config`, or else of the environment; None if there is none."""
    additional = getattr(vllm_config, "additional_config", None)
    if isinstance(additional, dict) and KEY in additional:
        return additional[KEY]
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise OptionError(f"{VARIABLE} is no JSON: {error}") from error


def _validate(sampling_params: Any) -> None:
    try:
        configuration = _configuration(_config_of_caller())
        names = None if configuration is None else list(configured_deltas(configuration))
        asked_for(sampling_params.extra_args, names)
    except OptionError as error:
        raise ValueError(str(error)) from error


def _config_of_caller() -> Any:
    """The configuration of the vLLM object that validates a request; None if there is none.

    vLLM gives a validator the request alone, in a process where no processor is made.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        config = getattr(frame.f_locals.get("self"), "vllm_config", None)
        if config is not None:
            return config
    return None
