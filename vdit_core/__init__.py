"""The house: attention plans, measurements and hosts. Torch only, except `host/`."""
