"""The maps that were given for several models: each is for one of them."""

from collections.abc import Sequence

from cmc_runtime.maps.choose import map_or_strategy
from cmc_runtime.models.load import LoadedModel
from pm_mined import OptionError, TokenMap, load_vocabulary


class GivenMaps:
    """The maps that were given, in files, which all have to be of use, or by a strategy."""

    def __init__(self, given: Sequence[str], models: int) -> None:
        read = [(one, map_or_strategy(one)) for one in given]
        strategies = [one for _, one in read if isinstance(one, str)]
        if len(strategies) > 1:
            raise OptionError(f"{', '.join(strategies)} are all strategies for maps: give one")
        self._strategy = next(iter(strategies), None)
        self._maps = {path: one for path, one in read if isinstance(one, TokenMap)}
        self._unused = dict(self._maps)
        self._models_left = models

    def take(self, user: LoadedModel, delta: LoadedModel) -> TokenMap | str | None:
        """The map for a model, else the strategy to build it by; None if nothing was given."""
        self._models_left -= 1
        sides = [load_vocabulary(one.tokenizer).fingerprint for one in (user, delta)]
        fitting = [path for path, one in self._maps.items() if _fingerprints(one) == sides]
        if len(fitting) > 1:
            raise OptionError(f"{', '.join(map(str, fitting))} are all for {user.spec}: give one")
        for path in fitting:
            self._unused.pop(path, None)
        if len(self._unused) > self._models_left:
            path, unused = next(iter(self._unused.items()))
            src, dst = unused.info.src.name, unused.info.dst.name
            raise OptionError(
                f"{path}: a map from {src} to {dst}: it fits neither {user.spec} and {delta.spec} "
                "nor another model that was given"
            )
        return self._maps[fitting[0]] if fitting else self._strategy


def _fingerprints(token_map: TokenMap) -> list[str]:
    return [token_map.info.src.fingerprint, token_map.info.dst.fingerprint]
