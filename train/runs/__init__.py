"""The files of a run: folder, checkpoints and records; and its progress report."""
