"""From predicted grids to scores: votes, intervals, comparisons, diagnostics."""
