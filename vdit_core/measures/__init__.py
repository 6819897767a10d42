"""Statistics of a map as small states: add tiles of it, read the result."""
