"""One forward of a model over token trees: each node sees its ancestors and itself.

A node's position is its distance from node 0, so that it reads what a forward of its context alone
would read. Rows that are all chains get the usual padding mask, with which fast attention kernels
go; others get a mask of [nodes, nodes], which not every model and attention takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from cmc_runtime.errors import ContextError
from pm_mined import OptionError

from .token_tree import MASKED, TokenTree

_ATTENTIONS = ("sdpa", "eager")  # those that add a mask of any shape
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """Trees, padded on the right; make one with `tree_batch`."""

    input_ids: Tensor
    """int64 [rows, nodes]"""
    position_ids: Tensor
    """int64 [rows, nodes]"""
    visible: Tensor
    """Bool [rows, nodes], whether there is a node, if all are chains; otherwise bool
    [rows, nodes, nodes], whether the first sees the second. Padding sees itself."""
    places: Tensor
    """int64 [tokens]: where each generated token, row after row, is predicted in [rows * nodes];
    somewhere in its row if it is masked."""
    masked: Tensor
    """Bool [tokens]: these are to be ignored by the loss."""
    longest: int
    """The length of the longest context, in ids."""

    def to(self, device: torch.device | str) -> "TreeBatch":
        """The same batch on a device."""
        return TreeBatch(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            visible=self.visible.to(device),
            places=self.places.to(device),
            masked=self.masked.to(device),
            longest=self.longest,
        )

    def read(self, states: Tensor) -> Tensor:
        """[tokens, size]: what stands at each token's place, of states [rows, nodes, size].

        The gradient is the same in every run.
        """
        # An embedding adds up gradients in a fixed order; indexing does so with atomics.
        return functional.embedding(self.places, states.flatten(0, 1))


def tree_batch(trees: Sequence[TokenTree]) -> TreeBatch:
    """Put the trees of a batch's rows together, on the CPU; at least one."""
    rows, nodes = len(trees), max(len(tree.ids) for tree in trees)
    input_ids, position_ids = np.zeros((2, rows, nodes), np.int64)
    are_chains = all(tree.is_chain for tree in trees)
    visible = _chains(trees, nodes) if are_chains else _ancestors(trees, nodes)
    for row, tree in enumerate(trees):
        input_ids[row, : len(tree.ids)] = tree.ids
        position_ids[row, : len(tree.ids)] = tree.positions
    places = [row * nodes + tree.places.clip(min=0) for row, tree in enumerate(trees)]
    return TreeBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.from_numpy(visible),
        torch.from_numpy(np.concatenate(places).astype(np.int64)),
        torch.from_numpy(np.concatenate([tree.places == MASKED for tree in trees])),
        max(tree.longest for tree in trees),
    )


def _chains(trees: Sequence[TokenTree], nodes: int) -> NDArray[np.bool_]:
    """[rows, nodes]"""
    return np.arange(nodes) < np.array([[len(tree.ids)] for tree in trees])


def _ancestors(trees: Sequence[TokenTree], nodes: int) -> NDArray[np.bool_]:
    """[rows, nodes, nodes]"""
    visible = np.tile(np.eye(nodes, dtype=np.bool_), (len(trees), 1, 1))
    for tree, sees in zip(trees, visible, strict=True):
        for node in range(1, len(tree.ids)):
            sees[node] |= sees[tree.parents[node]]
    return visible


def tree_inputs(model: PreTrainedModel, batch: TreeBatch) -> dict[str, Any]:
    """The arguments of a causal language model: `model(**tree_inputs(model, batch))`.

    Its states [rows, nodes, ...] at a node are those that a forward of the node's context has at
    its end; `batch.read` takes out those that predict.

    Raises:
        ContextError: a context is longer than the model reads.
        OptionError: the batch is not of chains, and the model, or its attention implementation,
            would not heed which node sees which.
    """
    config = model.config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and batch.longest > limit:
        raise ContextError(
            f"a context of the batch has {batch.longest} ids, but the model reads at most {limit}: "
            "leave out rows that are too long"
        )
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": _mask(model, config, batch),
        "use_cache": False,
    }


def tree_states(model: Any, tree: TreeBatch) -> Tensor:
    """[tokens, size]: the hidden states from which a delta model predicts each token.

    Raises:
        OptionError, ContextError: as `tree_inputs` says.
    """
    states: Tensor = model.get_decoder()(**tree_inputs(model, tree)).last_hidden_state
    return tree.read(states)


def _mask(model: PreTrainedModel, config: Any, batch: TreeBatch) -> Tensor | dict[str, Tensor]:
    """The mask as transformers takes it: for models of mixed layers, one for each type."""
    if batch.visible.ndim == 2:
        return batch.visible.long()
    layer_types = set(getattr(config, "layer_types", None) or ())
    _check_tree_attention(model, config, layer_types)
    full = _for_attention(batch.visible, model, config)
    window = getattr(config, "sliding_window", None)
    # Without types, all layers have the window if there is one: Mistral, Phi-3.
    if window is None or layer_types == {_FULL}:
        return full
    sliding = _for_attention(_within(window, batch), model, config)
    return {_FULL: full, _SLIDING: sliding} if layer_types else sliding


def _within(window: int, batch: TreeBatch) -> Tensor:
    """Bool [rows, nodes, nodes]: visible, and less than a window away."""
    distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
    return batch.visible & (distance < window)


def _for_attention(visible: Tensor, model: PreTrainedModel, config: Any) -> Tensor:
    """[rows, 1, nodes, nodes], as the attention implementation takes it."""
    if config._attn_implementation == "sdpa":
        return visible[:, None]
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(model.dtype).min)[:, None]


def _check_tree_attention(model: PreTrainedModel, config: Any, layer_types: set[str]) -> None:
    attention = config._attn_implementation
    others = layer_types - {_FULL, _SLIDING}
    if attention not in _ATTENTIONS:
        reason = f"{attention} cannot mask them: load the model with attn_implementation='sdpa'"
    elif others:
        reason = f"layers of the model ({', '.join(sorted(others))}) cannot read them"
    elif not model._supports_attention_backend:
        reason = f"a {type(model).__name__} makes masks or positions of its own"
    else:
        return
    raise OptionError(f"the trees have branches, but {reason}; chains (`reencode=False`) would do")
