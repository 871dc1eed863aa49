"""Studies of the theory: the papers' claims about small problems, tested."""
