"""ARC tasks as data: grids, symmetries, pairs and views as arrays, and the check for leaks."""
