"""Numeric cores on plain arrays; they know no tokenizer, no file and no command line.

The folder is `kernels/`, the import name is `pm_mined.kernels` (see `package-dir` in
pyproject.toml). Hugging Face publishes a package whose import name is `kernels`, and
transformers imports it: a second top-level module of that name would shadow it.

Nothing is imported here, so that reading a type does not load Numba.
"""
