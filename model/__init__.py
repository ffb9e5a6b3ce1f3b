"""The computation: torch, numpy and pydantic only. Knows nothing of files' places, DVC, MLflow or Prefect."""
