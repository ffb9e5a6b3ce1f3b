"""MLflow: where the store is, and what a published run holds."""
