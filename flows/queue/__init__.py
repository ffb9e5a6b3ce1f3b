"""Which runs wait, and in which order they start."""
