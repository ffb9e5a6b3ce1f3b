"""One experiment as a Prefect flow: its request, its frozen code, its processes and its records on disk."""
