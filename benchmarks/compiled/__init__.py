"""Programs compiled for a GPU that is not there: what they would launch and move."""
