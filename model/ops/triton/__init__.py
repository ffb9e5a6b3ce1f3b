"""GPU kernels of `model.ops`, written in Triton."""
