"""vLLM's two processor interfaces, where it is not installed, and batches as it would send them.

Written after vLLM 0.32: what it promises in `v1/sample/logits_processor/interface.py` and
`v1/worker/gpu/sample/logits_processor/interface.py`.
"""

import sys
from enum import Enum, auto
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

V1 = "vllm.v1.sample.logits_processor.interface"
V2 = "vllm.v1.worker.gpu.sample.logits_processor.interface"


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


class LogitsProcessor:
    """Neither interface has anything in its base class that ours needs."""


class BatchUpdate(NamedTuple):
    """What changes in a batch of the first interface, in this order."""

    removed: list[int]
    added: list[tuple[int, Any, list[int] | None, list[int]]]
    moved: list[tuple[int, int, Any]]


def engine_module(monkeypatch, without=()):
    """`cmc_runtime.engines.vllm`, on vLLM if it is installed; `without` some of its parts."""
    if find_spec("vllm") is None or without:
        for name in (V1, V2):
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                package = ".".join(parts[:count])
                monkeypatch.setitem(sys.modules, package, ModuleType(package))
            module = sys.modules[name]
            module.LogitsProcessor, module.MoveDirectionality = LogitsProcessor, MoveDirectionality
        for name in without:
            monkeypatch.setitem(sys.modules, name, None)  # importing it fails
            monkeypatch.delitem(sys.modules, V2, raising=False)
            if name == "vllm":
                monkeypatch.delitem(sys.modules, V1, raising=False)
        monkeypatch.delitem(sys.modules, "cmc_runtime.engines.vllm", raising=False)
    return import_module("cmc_runtime.engines.vllm")


def config(model, **additional):
    """A configuration with what is read of it; `model` is a folder."""
    from transformers import AutoConfig

    of_model = AutoConfig.from_pretrained(model)
    return SimpleNamespace(
        additional_config=additional,
        model_config=SimpleNamespace(
            tokenizer=str(model),
            tokenizer_revision=None,
            get_vocab_size=lambda: of_model.vocab_size,
            try_get_generation_config=lambda: {"eos_token_id": 0},
            hf_text_config=of_model,
        ),
    )


def params(**arguments):
    """The sampling parameters of a request with these arguments."""
    return SimpleNamespace(extra_args=arguments or None)


class Slots:
    """The state of the requests of the second interface."""

    def __init__(self, count, longest):
        self.device = torch.device("cpu")
        self.max_num_reqs = count
        ids = torch.full((count, longest), 10**6, dtype=torch.int32)  # of an earlier request
        self.all_token_ids = SimpleNamespace(gpu=ids)
        self.prompt_len = SimpleNamespace(np=np.zeros(count, np.int32))
        self.prefill_len = SimpleNamespace(np=np.zeros(count, np.int32))

    def commit(self, slot, ids):
        self.all_token_ids.gpu[slot, : len(ids)] = torch.tensor(ids, dtype=torch.int32)


def context(rows):
    """The layout of a step: of each row its slot, its place in its request, its token, and where
    that token is in its text.
    """
    slots, places, tokens, positions = (torch.tensor(one) for one in zip(*rows, strict=True))
    return SimpleNamespace(
        expanded_idx_mapping=slots.int(),
        idx_mapping_np=np.array(list(dict.fromkeys(slots.tolist())), np.int32),
        expanded_local_pos=places.int(),
        input_ids=tokens.int(),
        pos=positions,
    )
