"""Read tokens: one module for each file format; internal."""
