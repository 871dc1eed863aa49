"""Studies of the theory: what the papers claim of small problems, computed."""
