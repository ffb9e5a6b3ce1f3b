"""The mathematics of diffusion with uniform noise: schedule, forward process, reverse process, self-conditioning."""
