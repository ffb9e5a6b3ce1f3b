"""What executes queued runs, and what repairs the queue after a crash."""
