"""From a checkpoint to predicted grids: sizes, samplers, batching."""
