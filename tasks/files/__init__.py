"""The formats of the files between stages: one module per format."""
