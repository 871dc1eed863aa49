"""What a run leaves behind: its folder, checkpoints, records and progress."""
