"""Maps as arrays: NumPy archives and safetensors."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_mined.kernels.tokens import UNMAPPED
from pm_mined.maps.arrow_columns import column_values, packed_tokens
from pm_mined.maps.token_map import TokenMap

from .columns import Contents, is_same_token, metadata_json, refuse_several


def npz_arrays(token_map: TokenMap) -> Contents:
    """A NumPy archive of the columns."""
    arrays: dict[str, NDArray[Any]] = {
        "dst_id": token_map.dst_id,
        "rule": token_map.rule,
        "distance": token_map.distance,
        "src_kind": column_values(token_map.column("src_kind")),
        "rule_names": np.array(token_map.names("rule")),
        "src_kind_names": np.array(token_map.names("src_kind")),
        "metadata": np.array(metadata_json(token_map)),
        **_choice_arrays(token_map),
    }
    for side in ("src_token", "dst_token"):
        packed = packed_tokens(token_map.column(side))
        arrays[f"{side}_data"], arrays[f"{side}_offsets"] = packed.data, packed.offsets
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return [file.getvalue()]


def safetensors_arrays(token_map: TokenMap) -> Contents:
    """A safetensors file of ids, rules, distances and choices."""
    columns = ("dst_id", "rule", "distance")
    tensors = {name: getattr(token_map, name) for name in columns}
    return _tensors(token_map, tensors | _choice_arrays(token_map))


def _choice_arrays(token_map: TokenMap) -> dict[str, NDArray[Any]]:
    """The choices as arrays of a sparse matrix (CSR); empty for a map without choices."""
    if token_map.choices is None:
        return {}
    offsets, dst_id, weight = token_map.choices
    arrays = {"choice_offsets": offsets, "choice_dst_id": dst_id}
    return arrays if weight is None else arrays | {"choice_weight": weight}


def assistant_to_target(token_map: TokenMap) -> NDArray[np.int64]:
    """The map for assisted generation in transformers: int64 [source ids], -1 is suppressed.

    The source is the assistant, the destination the target. A target token has one assistant
    token at most: the one found by the lowest rule, and of several the lowest id.
    """
    same = np.flatnonzero(is_same_token(token_map))
    by_rule = same[np.argsort(token_map.rule[same], kind="stable")]
    _, first = np.unique(token_map.dst_id[by_rule], return_index=True)
    target_of = np.full(len(token_map), UNMAPPED, np.int64)
    target_of[by_rule[first]] = token_map.dst_id[by_rule[first]]
    return target_of


def assistant_to_target_tensor(token_map: TokenMap) -> Contents:
    """A safetensors file of `assistant_to_target`."""
    refuse_several(token_map, "assistant-to-target")
    return _tensors(token_map, {"assistant_to_target_input_ids": assistant_to_target(token_map)})


def _tensors(token_map: TokenMap, tensors: dict[str, NDArray[Any]]) -> Contents:
    from safetensors.numpy import save

    # One entry only: the library writes several in another order each time.
    return [save(tensors, {"pm_mined": metadata_json(token_map)})]
