"""Trains the demo model from public-domain pictures and a seed; see `python -m training --help`."""
