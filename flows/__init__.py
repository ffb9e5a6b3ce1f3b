"""The order of things: the `arc` command and the Prefect flows. Computes nothing itself."""
