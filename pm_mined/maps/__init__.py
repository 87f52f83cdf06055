"""Token maps: in memory, in their file, exported; internal."""
