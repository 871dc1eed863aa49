"""Handwritten digits: `python -m train digits`."""
