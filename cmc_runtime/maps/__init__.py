"""Token maps as tensors, and which map is used; internal."""
