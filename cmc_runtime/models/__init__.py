"""Models and their tokenizers: loaded, packaged, prompted; internal."""
