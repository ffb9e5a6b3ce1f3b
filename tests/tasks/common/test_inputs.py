"""A stage compares what it reads with dvc.lock, whose hashes are made here by hashlib alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.common import inputs
from tests.conftest import experiment


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def lock(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stages a and b@best-votes made a file, a folder and a score; the stage `reads` takes them by its matrix."""
    files = {"x/2.txt": b"two", "x/1.txt": b"one"}
    for name, content in {
        **files,
        "one.txt": b"1",
        "scores/best-votes.json": b"s",
        "scores/final-votes.json": b"t",
    }.items():
        path = workspace / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rows = [{"md5": md5(files[f"x/{i}.txt"]), "relpath": f"{i}.txt"} for i in (1, 2)]
    listed = md5(json.dumps(rows).encode())
    outs = {
        "a": [
            {"path": "made/one.txt", "md5": md5(b"1")},
            {"path": "made/x", "md5": f"{listed}.dir"},
        ],
        "b@best-votes": [{"path": "made/scores/best-votes.json", "md5": md5(b"s")}],
        "b@final-old": [{"path": "made/scores/final-votes.json", "md5": "0" * 32}],
        "c": [{"path": "made/unhashed"}],
    }
    needs = {"deps": ["made/x", "made/${item.name}.txt", "made/scores"], "matrix": {"name": ["one"]}}
    inputs.STAGES.write_text(yaml.safe_dump({"stages": {"reads": needs, "free": {"deps": []}}}))
    monkeypatch.setattr(inputs, "resolved", lambda: experiment(predict={"checkpoints": ["best"]}))

    def write() -> None:
        inputs.LOCK.write_text(yaml.safe_dump({"stages": {name: {"outs": out} for name, out in outs.items()}}))

    write()
    return {"write": write, "outs": outs}


def test_what_is_as_it_was_written_passes_and_what_nobody_asks_for_is_not_looked_at(lock: Any) -> None:
    inputs.check("reads", ("one",))
    inputs.check("free", ())
    inputs.check("unknown", ())
    Path("made/scores/best-votes.json").write_text("damaged")
    inputs.check("free", ())
    with pytest.raises(inputs.InputError, match=r"best-votes.json is not what the stage b@best-votes wrote"):
        inputs.check("reads", ("one",))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda: Path("made/one.txt").write_text("2"), r"made/one.txt is not what the stage a wrote"),
        (lambda: Path("made/x/1.txt").write_text("x"), r"made/x is not what"),
        (lambda: Path("made/x/3.txt").touch(), r"made/x is not what"),
        (lambda: Path("made/x/1.txt").unlink(), r"made/x is not what"),
        (lambda: Path("made/one.txt").unlink(), r"made/one.txt cannot be read: No such file"),
        (lambda: inputs.LOCK.write_text("stages: [1]"), r"is no lock of DVC's \(AttributeError\)"),
        (lambda: inputs.LOCK.write_text("stages: {a: {outs: [{md5: x}]}}"), r"is no lock of DVC's \(KeyError\)"),
    ],
)
def test_every_damage_is_named(lock: Any, damage: Any, says: str) -> None:
    damage()
    with pytest.raises(inputs.InputError, match=says):
        inputs.check("reads", ("one",))


def test_without_a_lock_or_stages_nothing_is_compared(lock: Any) -> None:
    Path("made/one.txt").unlink()
    inputs.check("reads", ("other",))
    inputs.LOCK.write_text("{}")
    inputs.check("reads", ("one",))
    lock["write"]()
    inputs.STAGES.unlink()
    inputs.check("reads", ("one",))


def test_a_parameter_file_is_a_dependency_too(lock: Any) -> None:
    inputs.STAGES.write_text(
        yaml.safe_dump({"stages": {"reads": {"deps": [], "params": ["p", {"made/one.txt": ["k"]}]}}})
    )
    inputs.check("reads", ())
    Path("made/one.txt").write_text("2")
    with pytest.raises(inputs.InputError, match=r"made/one.txt"):
        inputs.check("reads", ())
