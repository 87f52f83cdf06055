"""A check that the base of an adapter is the model that it was trained on, by some weights of it.

All of them would take a second for each GB; fine-tuning changes nearly every one, so that a few of
each matrix tell two models apart. The files do not say it: the same model may come in others.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmc_runtime.errors import ModelError

from .difference import DifferenceModel
from .digest import tensor_bytes
from .load import LoadedModel
from .lora import is_adapter
from .placement import all_weights

_VALUES = 64  # of each weight


def base_weights(model: Any) -> dict[str, str]:
    """`sha256` of some of a model's weights, and the `dtype` that it has here.

    Neither the names nor the order of weights count, which are those of a version of transformers;
    nor float32 or bfloat16, to which all are rounded.

    >>> base_weights(load_model("smollm2-135m").model)["dtype"]  # doctest: +SKIP
    'float32'
    """
    sampled = sorted(bytes(tensor_bytes(_sample(one))) for one in all_weights(model).values())
    digest = sha256(b"".join(sampled)).hexdigest()
    return {"dtype": str(model.dtype).removeprefix("torch."), "sha256": digest}


def _sample(weight: Tensor) -> Tensor:
    """Values at even distances."""
    flat = weight.detach().reshape(-1)
    some = flat[:: max(1, len(flat) // _VALUES)][:_VALUES]
    return some.to(torch.bfloat16) if some.is_floating_point() else some


def check_base(
    loaded: LoadedModel, trained: Mapping[str, str], note: Callable[[str], object]
) -> None:
    """Refuse an adapter whose base is not the model that it was trained on.

    Args:
        loaded: A delta model; only the adapter of a folder is checked.
        trained: `base_weights` of the model that it was trained on; empty if that is not known.
        note: Told, in a line, why it cannot be checked, if so.

    Raises:
        ModelError: it is another model.
    """
    model: Any = loaded.model
    if not isinstance(model, DifferenceModel) or not is_adapter(Path(loaded.spec)):
        return
    if not trained:
        note(f"{loaded.spec}: it does not say what weights its base had when it was trained")
        return
    found = base_weights(model.plain)
    if found["sha256"] == trained["sha256"]:
        return
    dtypes = {found["dtype"], trained["dtype"]}
    if len(dtypes) > 1 and "float16" in dtypes:  # rounded to that, they are not what they were
        said = " and ".join(sorted(dtypes))
        note(f"{loaded.spec}: whether its base is another cannot be told between {said}")
        return
    named = model.adapter.config.get("base_model_name_or_path")
    raise ModelError(
        f"{loaded.spec}: its base has other weights than {named} had when it was trained on that: "
        "give that model by --adapter-base"
    )
