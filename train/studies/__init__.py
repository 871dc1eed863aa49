"""Studies of the papers' theory: a computation and its figure each."""
