"""Evaluation of models, alone and with a delta: losses, shifts, TOFU; internal."""
