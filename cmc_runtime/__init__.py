"""Delta models at work: steering a model through a token map, and training and evaluating deltas.

>>> import cmc_runtime
>>> delta = cmc_runtime.load_delta(  # doctest: +SKIP
...     "my-delta", tokenizer, num_logits=model.config.vocab_size
... )
>>> cmc_runtime.generate(user, ["Who wrote Emma?"], delta, alpha=0.5)  # doctest: +SKIP

The names of `dir(cmc_runtime)` are public and kept; every module below is internal and may change.
Names are imported on first use, so that `import cmc_runtime` loads neither torch nor transformers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
