"""The toy world: rendered clips, their words, and a tiny video model that learns both."""
