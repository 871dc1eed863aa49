"""Studies of training dynamics: each computes numbers and draws a figure."""
