"""Where vocabularies and encoders come from; internal."""
