"""Token maps between the vocabularies of language models.

>>> import pm_mined
>>> token_map = pm_mined.build_map("llama", "qwen")  # doctest: +SKIP
>>> token_map.save("llama-to-qwen.arrow")  # doctest: +SKIP
>>> pm_mined.load_map("llama-to-qwen.arrow").dst_id  # doctest: +SKIP
array([     0,      1,      2, ...,     -1,     -1,     -1], dtype=int32)

Names are imported on first use: `import pm_mined` loads neither Numba nor Arrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .atomic_file import write_atomically
    from .build import build_map
    from .errors import (
        MapFileError,
        OptionError,
        OverridesError,
        PmMinedError,
        TextError,
        VocabularyError,
    )
    from .kernels.tokens import Kind, Rule
    from .maps.token_map import TokenMap, load_map
    from .maps.verify import difference
    from .reports.audit import Audit
    from .reports.usage import Usage, read_usage
    from .strategies.registry import STRATEGIES
    from .tokenizer.encoders.libraries import Encode
    from .tokenizer.encoders.load import load_encoder
    from .tokenizer.hub import download_tokenizer
    from .tokenizer.load import load_vocabulary
    from .vocabulary import Vocabulary

__version__ = "0.1.0"

_HOME = {
    "Audit": "reports.audit",
    "Encode": "tokenizer.encoders.libraries",
    "Kind": "kernels.tokens",
    "MapFileError": "errors",
    "OptionError": "errors",
    "OverridesError": "errors",
    "PmMinedError": "errors",
    "STRATEGIES": "strategies.registry",
    "Rule": "kernels.tokens",
    "TextError": "errors",
    "TokenMap": "maps.token_map",
    "Usage": "reports.usage",
    "Vocabulary": "vocabulary",
    "VocabularyError": "errors",
    "build_map": "build",
    "difference": "maps.verify",
    "download_tokenizer": "tokenizer.hub",
    "load_encoder": "tokenizer.encoders.load",
    "load_map": "maps.token_map",
    "load_vocabulary": "tokenizer.load",
    "read_usage": "reports.usage",
    "write_atomically": "atomic_file",
}

__all__ = [
    "STRATEGIES",
    "Audit",
    "Encode",
    "Kind",
    "MapFileError",
    "OptionError",
    "OverridesError",
    "PmMinedError",
    "Rule",
    "TextError",
    "TokenMap",
    "Usage",
    "Vocabulary",
    "VocabularyError",
    "build_map",
    "difference",
    "download_tokenizer",
    "load_encoder",
    "load_map",
    "load_vocabulary",
    "read_usage",
    "write_atomically",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
