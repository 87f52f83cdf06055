"""Models in other formats: GGUF files as folders, and folders as GGUF files."""
