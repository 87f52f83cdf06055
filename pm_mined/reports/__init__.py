"""What a person reads of a map; internal."""
