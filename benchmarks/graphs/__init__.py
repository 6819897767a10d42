"""Workflows by theme: their builders, and the notes in them."""
