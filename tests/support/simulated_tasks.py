"""Tasks made up by chance."""


def difficulty(draws, tasks, mean):
    """Chances of being solved: most tasks are nearly never or nearly always solved, as in real runs."""
    return draws.beta(0.25, 0.25 * (1 - mean) / mean, size=tasks)
