"""One experiment as a Prefect flow: its request, frozen code, processes and records."""
