"""Token maps between the vocabularies of language models.

>>> import pm_mined
>>> token_map = pm_mined.build_map("llama", "qwen")  # doctest: +SKIP
>>> token_map.save("llama-to-qwen.arrow")  # doctest: +SKIP
>>> pm_mined.load_map("llama-to-qwen.arrow").dst_id  # doctest: +SKIP
array([     0,      1,      2, ...,     -1,     -1,     -1], dtype=int32)

The names of `dir(pm_mined)` are public: they make maps, read them and check them, and are kept.
Every module below is internal and may change. Names are imported on first use, so that
`import pm_mined` loads neither Numba nor Arrow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
