"""Chosen strengths in the user's cache: a file for each, named by a digest of all it depends on.

Whatever changes a loss has a part in the digest: the weights of both models, the tokens of the
rows as both read them, the map, the strengths that were tried and the settings. So a choice that is
found is never one for other weights, rows or templates.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from cmc_runtime.data.samples import Sample
from cmc_runtime.delta import Delta
from cmc_runtime.maps.tensors import MapTensors
from cmc_runtime.models.digest import model_digest, tensor_bytes
from cmc_runtime.models.kept_models import ALPHAS
from cmc_runtime.models.load import LoadedModel
from pm_mined.atomic_file import write_atomically
from pm_mined.kernels.user_cache import user_cache

from .scores import Fusion, settings_json

MOST = 1_000
"""Choices that are kept at most: those made the longest ago make room."""

_RULE = 1  # by which a strength is chosen; a change of it gets another number


def alpha_key(
    user: LoadedModel,
    delta: Delta,
    samples: Sequence[Sample],
    fusions: Sequence[Fusion],
    *,
    forgets: bool,
) -> str:
    """The digest of all that a choice depends on, in hexadecimal digits."""
    settings = [settings_json(one) for one in fusions]
    about = [
        _RULE,
        forgets,
        user.ends,
        settings,
        *map(model_digest, (user.model, delta.loaded.model)),
    ]
    digest = sha256(json.dumps(about).encode())
    for tensor in _tensors(delta.tensors):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(memoryview(tensor_bytes(tensor)))
    for sample in samples:
        digest.update(json.dumps(_tokens(sample)).encode())
    return digest.hexdigest()


def _tensors(tensors: MapTensors) -> list[torch.Tensor]:
    """All by which logits are gathered."""
    choices = tensors.choices
    several = () if choices is None else choices[:4]
    return [one for one in (tensors.index, *several) if one is not None]


def _tokens(sample: Sample) -> list[Any]:
    """A sample as both models read it."""
    own = [sample.ids, sample.num_prompt, sample.num_text]
    tree = sample.tree
    contexts = () if tree is None else (tree.ids, tree.parents, tree.places)
    return own + [one.tolist() for one in contexts]


def kept_alpha(key: str) -> dict[str, Any] | None:
    """The choice with this key; None if there is none, or it is damaged.

    Raises:
        OSError: the cache cannot be used, or somebody else can write it.
    """
    path = _path(key)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def keep_alpha(key: str, choice: dict[str, Any]) -> Path:
    """Keep a choice; returns its file.

    Raises:
        OSError: it cannot be written, or somebody else can write the cache.
    """
    path = _path(key)
    write_atomically(path, (json.dumps(choice, indent=2) + "\n").encode())
    by_age = sorted(path.parent.glob("*.json"), key=lambda one: -one.stat().st_mtime)
    for old in by_age[MOST:]:
        old.unlink(missing_ok=True)
    return path


def _path(key: str) -> Path:
    return user_cache(ALPHAS) / f"{key[:32]}.json"
