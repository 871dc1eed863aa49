"""Image classifiers: `python -m train image`."""
