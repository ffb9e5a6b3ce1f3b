"""The denoiser, and the packed batches that it reads."""
