"""A checkpoint answers official JSON: `arc solve`, and the models in MLflow."""
