"""Tables and figures from finished runs: `python -m train report`."""
