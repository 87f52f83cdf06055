"""The engine-neutral core: requests that delta models follow, ways to steer; internal."""
