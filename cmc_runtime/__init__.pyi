"""The public names, once: lazy_loader reads where each is from, and so do editors and checkers."""

from .data.examples import read_examples as read_examples
from .delta import Delta as Delta, load_delta as load_delta
from .engines.generate import (
    Completion as Completion,
    Sampling as Sampling,
    generate as generate,
)
from .engines.transformers import SteeringProcessor as SteeringProcessor
from .errors import (
    CardError as CardError,
    ContextError as ContextError,
    DataError as DataError,
    ModelError as ModelError,
    PackageError as PackageError,
    StatesError as StatesError,
    TrainingError as TrainingError,
)
from .evaluation.evaluate import Evaluation as Evaluation, evaluate as evaluate
from .evaluation.fit_alpha import FittedAlpha as FittedAlpha, fit_alpha as fit_alpha
from .fusion.arguments import implementation_of as implementation_of
from .fusion.fuse_logits import fuse_logits as fuse_logits
from .fusion.losses import fused_cross_entropy as fused_cross_entropy
from .fusion.next_tokens import next_tokens as next_tokens
from .maps.tensors import (
    MapTensors as MapTensors,
    identity_map_tensors as identity_map_tensors,
    load_map_tensors as load_map_tensors,
)
from .models.load import LoadedModel as LoadedModel, load_model as load_model
from .models.prompts import Conversation as Conversation
from .steering.requests import Request as Request
from .steering.ways import (
    AdaptiveSteering as AdaptiveSteering,
    Contrast as Contrast,
    Steering as Steering,
)
from .training.new_delta import new_adapter as new_adapter, new_delta as new_delta
from .training.options import TrainingOptions as TrainingOptions
from .training.train import train as train
