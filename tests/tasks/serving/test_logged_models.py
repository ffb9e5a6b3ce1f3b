"""What MLflow is given of a model: its files, its types, its version, and the errors that may be passed over."""

import importlib.metadata
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import INVALID_STATE, RESOURCE_ALREADY_EXISTS, MlflowException

from tasks.tracking import models
from tasks.tracking.models import Model

with warnings.catch_warnings(action="ignore"):  # MLflow warns of its own type hints.
    import mlflow.pyfunc

MODEL = Model(
    name="best",
    step=12,
    params={"a": "1"},
    tags={"x": "of the model", "y": "2"},
    registered="arc",
    script=Path("script.py"),
    code=[Path("model"), Path("tasks")],
    files={"weights": Path("data/best.safetensors"), "more": Path("data/best.json")},
    texts={"settings": ("settings.json", "{}"), "pairs": ("own.json", "[1]")},
    example={"tasks": {}},
)


class Client:
    """Answers as MLflow's client, and remembers what was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self.error = error

    def create_logged_model(self, *given: Any) -> Any:
        self.asked.append(("create", *given))
        return SimpleNamespace(model_id=77)

    def log_model_artifacts(self, model: Any, place: str) -> None:
        self.asked.append(("log", model, sorted(path.name for path in Path(place).iterdir())))

    def finalize_logged_model(self, *given: Any) -> None:
        self.asked.append(("finalize", *given))

    def create_registered_model(self, name: str) -> None:
        self.asked.append(("register", name))
        if self.error:
            raise self.error

    def create_model_version(self, *given: Any, **named: Any) -> Any:
        self.asked.append(("version", given, named))
        return SimpleNamespace(version=5)


def test_a_model_is_logged_with_copies_of_its_files_and_texts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    saved: dict[str, Any] = {}

    def save(place: str, **given: Any) -> None:
        Path(place).mkdir()
        (Path(place) / "MLmodel").write_text("")
        texts = {name: Path(path).read_text() for name, path in given["artifacts"].items() if name in MODEL.texts}
        saved.update(given, texts=texts)

    monkeypatch.setattr(mlflow.pyfunc, "save_model", save)
    client = Client()
    assert models.log(client, "3", "run", MODEL, {"x": "of the result", "z": "9"}) == "77"
    tags = {"x": "of the result", "y": "2", "z": "9"}
    assert client.asked == [
        ("create", "3", "best", "run", tags, {"a": "1"}, "checkpoint"),
        ("log", 77, ["MLmodel"]),
        ("finalize", 77, "READY"),
    ]
    assert saved["texts"] == {"settings": "{}", "pairs": "[1]"}
    artifacts = saved["artifacts"]
    assert set(artifacts) == {"weights", "more", "settings", "pairs"}
    assert artifacts["weights"] == str(tmp_path / "data/best.safetensors")
    assert [Path(artifacts[name]).name for name in ("settings", "pairs")] == ["settings.json", "own.json"]
    assert not Path(artifacts["settings"]).exists(), "what MLflow has copied is removed"
    assert (saved["python_model"], saved["code_paths"]) == ("script.py", ["model", "tasks"])
    assert saved["input_example"] == {"tasks": {}}
    assert (saved["mlflow_model"].run_id, saved["mlflow_model"].model_id) == ("run", 77)
    needed = saved["pip_requirements"]
    assert f"torch=={importlib.metadata.version('torch')}" in needed
    assert len(needed) == len(models.PACKAGES)


def test_the_signature_is_official_json_to_a_row_for_each_test_input() -> None:
    found = models.signature()
    assert [(column.name, str(column.type)) for column in found.inputs.inputs] == [("tasks", "Any")]
    grid, size = "Array(Array(long))", "Array(long)"
    assert [(column.name, str(column.type).replace("DataType.", "")) for column in found.outputs.inputs] == [
        ("task", "string"),
        ("test", "long"),
        ("attempt_1", grid),
        ("size_1", size),
        ("votes_1", "long"),
        ("attempt_2", grid),
        ("size_2", size),
        ("votes_2", "long"),
        ("proposals", "long"),
    ]


@pytest.mark.parametrize("error", [None, MlflowException("there", error_code=RESOURCE_ALREADY_EXISTS)])
def test_a_version_is_made_of_a_new_or_a_known_model(error: Exception | None) -> None:
    client = Client(error)
    assert models.register(client, MODEL, "m-1", "run", {"x": "of the result"}) == "5"
    tags = {"x": "of the result", "y": "2", "arc.model": "m-1"}
    version = ("version", ("arc", "models:/m-1", "run"), {"tags": tags, "model_id": "m-1"})
    assert client.asked == [("register", "arc"), version]


def test_another_error_ends_it() -> None:
    client = Client(MlflowException("broken", error_code=INVALID_STATE))
    with pytest.raises(MlflowException, match="broken"):
        models.register(client, MODEL, "m-1", "run", {})
    assert client.asked == [("register", "arc")]
