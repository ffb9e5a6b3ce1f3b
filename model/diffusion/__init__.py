"""The mathematics of uniform-noise diffusion: noise schedule, posterior, self-conditioning."""
