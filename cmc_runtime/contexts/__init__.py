"""Contexts of a delta model, in its own tokens; internal."""
