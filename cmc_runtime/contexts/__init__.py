"""What a delta model reads, in its own tokens; internal."""
