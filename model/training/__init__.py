"""From data to weights: objective, batches, optimiser, and the training loop."""
