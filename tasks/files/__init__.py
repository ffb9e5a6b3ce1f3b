"""The formats of the files between stages: one module reads and writes each."""
