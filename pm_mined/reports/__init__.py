"""Reports on a map: audit, usage of text, explanations, comparisons; internal."""
