"""Instruction data, and samples of it in the tokens of two models; internal."""
