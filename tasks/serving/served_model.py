"""The model of a checkpoint in MLflow: `mlflow.pyfunc.load_model` executes this file beside a copy of our code.

Its answers equal those of `arc solve`. It computes on the CPU unless ARC_DEVICE names a GPU, whose lock it does not
take: a server that holds a GPU would stop the queue.
"""

import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

LARGEST_CELLS = 2_000_000
"""Cells of a request, inputs and outputs; the 400 evaluation tasks of ARC-AGI-1 have 0.6 million."""


class Solver(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is not typed.
    """Tasks as official JSON in, two attempts for each test input out."""

    def load_context(self, context: Any) -> None:
        """Load the network, its evaluation and the pairs that it was trained on."""
        import torch

        from model.config.evaluation import Evaluation, Score
        from model.storage import checkpoints
        from tasks.common.documents import read_json

        place = Path(context.artifacts["weights"])
        settings = read_json(Path(context.artifacts["settings"]))
        self.evaluation = Evaluation.model_validate(settings["evaluation"])
        self.rule = Score.model_validate(settings["score"])
        pairs = read_json(Path(context.artifacts["pairs"]))
        self.trained: Any = None  # Tasks are then recognised by their ids alone.
        if pairs is not None:
            self.trained = {
                (entry["task"], entry["number"]): (_grid(entry["input"]), _grid(entry["output"])) for entry in pairs
            }
        device = torch.device(os.environ.get("ARC_DEVICE") or "cpu")
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
        stem = place.with_suffix("")
        self.network, self.description = checkpoints.load(stem, device, self.evaluation.weights)

    # MLflow would take type hints for the signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One row a test input: task, test, two attempts with their sizes and votes, and the number of proposals."""
        from model.puzzles.grids import GridError
        from tasks.serving import solving

        try:
            tasks = solving.parse(_contents(model_input))
        except GridError as error:
            raise _refused(str(error)) from None
        recognised, unknown = solving.recognise(tasks, self.description, self.trained)
        if unknown:
            raise _refused(f"{len(unknown)} of {len(tasks)} tasks are not known to the checkpoint: {_named(unknown)}")
        answered = solving.answer(self.network, self.description, recognised, self.evaluation, self.rule, self.trained)
        attempts, proposals, failures = answered
        if failures:
            raise RuntimeError("; ".join(failures))
        rows = []
        for name, task in recognised.items():
            for i in range(len(task.test)):
                proposed = proposals[name, i]
                two = [attempts[name, i][0], attempts[name, i][-1]]
                row: dict[str, Any] = {"task": name, "test": i}
                for number, grid in enumerate(two, 1):
                    votes = sum(np.array_equal(proposed.candidates[c], grid) for c in proposed.choice)
                    row[f"attempt_{number}"] = grid.tolist()
                    row[f"size_{number}"] = list(grid.shape)
                    row[f"votes_{number}"] = votes
                rows.append(row | {"proposals": len(proposed.choice)})
        return pd.DataFrame(rows)


def _contents(contents: Any) -> dict[str, Any]:
    """Tasks by id from {"tasks": JSON}, as an object or as text."""
    if isinstance(contents, pd.DataFrame):
        if list(contents) != ["tasks"]:
            raise _refused(f'expected {{"tasks": official JSON}}, found the keys {list(contents)}')
        # MLflow makes rows of the tasks, or one row of what is no object.
        named = all(isinstance(name, str) for name in contents.index)
        contents = dict(contents["tasks"]) if named else contents["tasks"].iloc[0]
    elif isinstance(contents, dict) and set(contents) == {"tasks"}:
        contents = contents["tasks"]
    if isinstance(contents, str):
        from tasks.common.documents import DocumentError, parse_json

        try:
            contents = parse_json(contents.encode(), "tasks")
        except DocumentError as error:
            raise _refused(str(error)) from None
    contents = _plain(contents)
    if not isinstance(contents, dict) or not contents:
        raise _refused(f"tasks must be an object of tasks by id, found {str(contents)[:40]}")
    cells = _cells(contents)
    if cells > LARGEST_CELLS:
        raise _refused(f"the request has {cells} cells; at most {LARGEST_CELLS} are allowed: send fewer tasks")
    return contents


def _plain(value: Any) -> Any:
    """Nested lists and numbers, whatever arrays MLflow made of them."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _cells(value: Any) -> int:
    """Values that are neither objects nor lists."""
    if isinstance(value, dict):
        return sum(_cells(inner) for inner in value.values())
    return sum(_cells(inner) for inner in value) if isinstance(value, list) else 1


def _grid(rows: Any) -> Any:
    return None if rows is None else np.array(rows, dtype=np.uint8)


def _named(unknown: Any) -> str:
    return ", ".join(f"{u.task} ({u.reason})" for u in unknown[:10]) + (", ..." if len(unknown) > 10 else "")


class Refusal(MlflowException):  # type: ignore[misc]
    """An error that the server answers with status 400 and the reason alone; MLflow would repeat the request in it."""

    @property
    def message(self) -> str:
        """The reason."""
        return self.reason

    @message.setter
    def message(self, value: str) -> None:
        self.reason = getattr(self, "reason", value)


def _refused(message: str) -> Refusal:
    return Refusal(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Solver())
