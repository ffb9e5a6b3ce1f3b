"""The queue of experiments: submitting, ordering, cancelling, and the Prefect deployment behind it."""
