"""The public names, once: lazy_loader reads where each is from, and so do editors and checkers."""

from .build import build_map as build_map
from .errors import (
    MapFileError as MapFileError,
    OptionError as OptionError,
    OverridesError as OverridesError,
    PmMinedError as PmMinedError,
    TextError as TextError,
    VocabularyError as VocabularyError,
)
from .kernels.tokens import Kind as Kind, Rule as Rule
from .maps.token_map import TokenMap as TokenMap, load_map as load_map
from .maps.verify import check_map as check_map
from .reports.audit import Audit as Audit
from .reports.usage import Usage as Usage, read_usage as read_usage
from .strategies.registry import STRATEGIES as STRATEGIES
from .tokenizer.encoders.load import load_encoder as load_encoder
from .tokenizer.load import load_vocabulary as load_vocabulary
from .version import __version__ as __version__
from .vocabulary import Vocabulary as Vocabulary
