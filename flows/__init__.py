"""The `arc` command and the Prefect flows: when and where runs happen. Computes nothing itself."""
