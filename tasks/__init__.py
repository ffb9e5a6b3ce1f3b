"""One module a stage of dvc.yaml: files in, `model`, files out. Run one with `python -m tasks.STAGE`."""
