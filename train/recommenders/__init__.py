"""Neural collaborative filtering: `python -m train recsys`."""
