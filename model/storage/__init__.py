"""Files that are functions of their content: atomic writing, digests, checkpoints."""
