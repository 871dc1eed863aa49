"""Language models of bytes: `python -m train language`."""
