"""The models of a command that writes text: the user model and the delta that steers it."""

from typing import TYPE_CHECKING, Any

from pm_mined.cli.output import note, working

if TYPE_CHECKING:
    from cmc_runtime.delta import Delta
    from cmc_runtime.models.load import LoadedModel


def load_steered(
    model: str,
    delta: str | None,
    *,
    adapter_base: str | None,
    device: str | None,
    device_map: str | None,
    dtype: str | None,
    **of_delta: Any,
) -> "tuple[LoadedModel, Delta | None]":
    """Load a user model and its delta, if there is one; `of_delta` is for `load_delta`."""
    with working("Loading torch and transformers"):
        import torch

        from cmc_runtime.delta import load_delta
        from cmc_runtime.models.delta_model import load_delta_model
        from cmc_runtime.models.load import load_model
        from cmc_runtime.models.prompts import check_prompt_template

    if of_delta["prompt_template"] is not None:
        check_prompt_template(of_delta["prompt_template"])
    weights = None if dtype is None else getattr(torch, dtype)
    small = None
    if delta is not None:  # the small one first: errors come sooner
        with working(f"Loading {delta}"):
            small = load_delta_model(
                delta, base=adapter_base, device=device, dtype=weights, note=note
            )
    with working(f"Loading {model}"):
        user = load_model(model, device=device, device_map=device_map, dtype=weights, note=note)
    if small is None:
        return user, None
    with working("Loading the map"):
        return user, load_delta(
            *(small, user.tokenizer),
            num_logits=user.num_logits,
            ends=user.ends,
            note=note,
            **of_delta,
        )
