"""The start of `cmc-runtime train`: the delta model before the training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pm_mined import OptionError
from pm_mined.cli.output import note, working

if TYPE_CHECKING:
    from cmc_runtime.models.load import LoadedModel


@dataclass(frozen=True)
class Start:
    """The options that say what a delta begins as.

    Attributes:
        delta: A small model, or an adapter of one.
        config: A shape, which gets random weights.
        layers: How many layers of the frozen model.
        adapter: The rank of a new adapter.
        tokenizer: The model whose tokenizer a shape has.
        adapter_base: The base model of an adapter.

    Raises:
        OptionError: there is not just one start, or an option that is for another one.
    """

    delta: str | None
    config: str | None
    layers: int | None
    adapter: int | None
    tokenizer: str | None
    adapter_base: str | None

    def __post_init__(self) -> None:
        starts = {
            "--delta": self.delta,
            "--delta-config": self.config,
            "--delta-layers": self.layers,
            "--delta-adapter": self.adapter,
        }
        given = [name for name, value in starts.items() if value is not None]
        if len(given) != 1:
            raise OptionError(
                f"give one of {', '.join(starts)}; there is {' and '.join(given) or 'none'}"
            )
        if self.tokenizer is not None and self.config is None:
            raise OptionError("--delta-tokenizer is for a delta of --delta-config")
        if self.adapter_base is not None and self.adapter is None and self.delta is None:
            raise OptionError("--adapter-base is for --delta-adapter, or a --delta that is one")

    def load(self, frozen: "LoadedModel", template: str, seed: int) -> "LoadedModel":
        """The delta model, on the device of the frozen model, which was loaded as `template`."""
        import torch

        from cmc_runtime.models.delta_model import load_delta_model
        from cmc_runtime.models.load import load_model, load_tokenizer
        from cmc_runtime.training.new_delta import new_adapter, new_delta

        how: dict[str, Any] = {"device": frozen.device, "dtype": torch.float32, "note": note}
        base = frozen if self.adapter_base == template else self.adapter_base
        if self.delta is not None:
            with working(f"Loading {self.delta}"):
                return load_delta_model(self.delta, base=base, **how)
        if self.adapter is not None:
            if isinstance(base, str):
                with working(f"Loading {base}"):
                    base = load_model(base, **how)
            return new_adapter(base or frozen, rank=self.adapter, seed=seed)
        own = None if self.tokenizer is None else load_tokenizer(self.tokenizer)
        return new_delta(frozen, shape=self.config, layers=self.layers, tokenizer=own, seed=seed)
