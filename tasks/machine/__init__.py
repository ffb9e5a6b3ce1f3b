"""The machine that a stage runs on: device, number of GPUs, the lock on the GPU."""
