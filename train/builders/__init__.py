"""Data sets for TensorFlow Datasets, prepared without TensorFlow."""
