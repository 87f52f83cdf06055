"""Tiny LoRA adapters, made by peft with random weights."""

import warnings
from contextlib import contextmanager
from copy import deepcopy

import peft
import torch

EVERY_SETTING = {
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"v_proj": 3, r"layers\.1.*down_proj": 20},
    "use_rslora": True,
}


@contextmanager
def peft_may_warn():
    """It uses names that transformers has given up, and looks for base models on the Hub."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def peft_model(model, seed=0, **settings):
    """A copy of a model with a random adapter of all its linear layers, in peft's hands."""
    config = peft.LoraConfig(
        **{"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    )
    torch.manual_seed(seed)
    with peft_may_warn():
        made = peft.get_peft_model(deepcopy(model), config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.mul_(0.5)
    return made.eval()


def peft_difference(made, ids):
    """[rows, ids, logits]: what the adapter changes, by two forwards of peft."""
    with torch.no_grad():
        adapted = made(ids).logits
        with made.disable_adapter():
            return adapted - made(ids).logits


def save_adapter(folder, model, base, **settings):
    """Save a random adapter as peft does; returns peft's model."""
    made = peft_model(model, **settings)
    made.peft_config["default"].base_model_name_or_path = str(base)
    with peft_may_warn():
        made.save_pretrained(folder)
    return made


def read_by_peft(folder, model):
    """A model with the adapter of a folder, which peft reads; it is changed in place."""
    with peft_may_warn():
        return peft.PeftModel.from_pretrained(model, folder).eval()
