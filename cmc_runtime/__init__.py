"""Decoding and training with delta models through token maps. Nothing is here yet."""
