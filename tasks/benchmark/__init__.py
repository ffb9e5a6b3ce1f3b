"""What `make bench` measures: training, answering, and what it costs to show a training."""
