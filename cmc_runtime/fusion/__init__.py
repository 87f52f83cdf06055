"""Fused logits and their losses; internal."""
