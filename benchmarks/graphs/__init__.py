"""Workflows by theme: their builders, and the notes in them."""
"""Workflows by theme; each module has its builders and their notes in `WORKFLOWS`."""
