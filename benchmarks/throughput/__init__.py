"""Whole training loops timed beside a PyTorch loop."""
