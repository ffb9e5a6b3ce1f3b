"""What the stage publish says of the code, of the data and of how to get a result back."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import publish
from tasks.commands import table
from tasks.common import paths
from tasks.files import cost
from tasks.reporting import score_table
from tasks.serving import checkpoint_models
from tests.conftest import experiment
from tests.support.small_experiment import FILES, build

COMMIT = "0123456789abcdef"


def git(*arguments: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *name, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_the_example_is_the_first_evaluation_task_without_its_answers(workspace: Path) -> None:
    build()
    [(name, task)] = publish.served_example().items()
    assert (name, task["test"]) == ("cccccccc", FILES["arc-agi_evaluation_challenges.json"]["cccccccc"]["test"])
    assert task["train"] == FILES["arc-agi_evaluation_challenges.json"]["cccccccc"]["train"]


def test_the_pairs_are_those_trained_on(workspace: Path) -> None:
    build()
    found = {(pair["task"], pair["number"]): (pair["input"], pair["output"]) for pair in publish.served_pairs()}
    shown = FILES["arc-agi_evaluation_challenges.json"]["cccccccc"]["train"][0]
    assert found["cccccccc", 0] == (shown["input"], shown["output"])
    assert {name for name, _ in found} == {"aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"}


@pytest.mark.parametrize(
    ("names", "served"),
    [(["attempts", "votes"], "votes"), (["votes", "attempts"], "votes"), (["attempts"], "attempts")],
)
def test_a_model_answers_by_the_headline_or_the_first(names: list[str], served: str) -> None:
    assert checkpoint_models.served_evaluation(experiment(predict={"evaluations": names})) == served


def test_the_code_is_a_commit_and_whether_it_was_changed(workspace: Path) -> None:
    assert publish.code() == {}, "no repository"
    git("init", "--quiet", "--initial-branch", "main")
    (workspace / "model").mkdir()
    (workspace / "model" / "a.py").write_text("1")
    git("add", "model")
    git("commit", "--quiet", "--message", "x")
    tags = publish.code()
    source = {"mlflow.source.name": "python -m tasks.publish", "mlflow.source.type": "LOCAL"}
    commit = {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "mlflow.source.git.dirty": "false"}
    assert tags == source | commit | {"arc.branch": "main"}
    (workspace / "model" / "a.py").write_text("2")
    git("checkout", "--quiet", "--detach")
    assert publish.code() == source | commit | {"mlflow.source.git.dirty": "true"}


def test_without_git_there_is_no_code(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert publish.code() == {}


def test_the_hashes_are_those_of_dvc(workspace: Path) -> None:
    assert publish.dvc_hashes() == {}
    paths.LOCK.write_text("")
    assert publish.dvc_hashes() == {}
    outs = [
        {"path": f"data/checkpoints/{name}.safetensors", "md5": f"md5 of {name}"} for name in ("best", "final", "late")
    ]
    outs[1].pop("md5")
    stages = {"select": {"outs": [*outs, {"path": "data/x", "md5": "y"}]}, "train": {"cmd": "z"}}
    paths.LOCK.write_text(yaml.safe_dump({"stages": stages}))
    assert publish.dvc_hashes() == {"arc.dvc.best": "md5 of best", "arc.dvc.late": "md5 of late"}


def test_the_note_says_how_to_restore() -> None:
    assert publish.restore_note({}, {}) == ""
    note = publish.restore_note(
        {"mlflow.source.git.commit": COMMIT}, {"arc.dvc.best": "abcdef", "arc.dvc.final": "0123"}
    )
    assert note == (
        "Restore where dvc.lock is committed: `git switch --detach 0123456789ab && dvc checkout`\n"
        "- weights best: `.dvc/cache/files/md5/ab/cdef`\n"
        "- weights final: `.dvc/cache/files/md5/01/23`"
    )


@pytest.mark.parametrize(
    ("tags", "seconds", "says"),
    [
        ({"mlflow.source.git.commit": COMMIT, "mlflow.source.git.dirty": "true"}, None, "commit 012345678+"),
        ({"mlflow.source.git.commit": COMMIT, "mlflow.source.git.dirty": "false"}, 90.0, "commit 012345678, TIME"),
        ({}, 90.0, "TIME"),
        ({}, None, ""),
    ],
)
def test_the_table_ends_with_commit_and_cost(
    workspace: Path, monkeypatch: Any, capsys: Any, tags: Any, seconds: float | None, says: str
) -> None:
    monkeypatch.setattr(score_table, "main", lambda long: print(f"the {'long ' * long}table"))
    monkeypatch.setattr(table, "code", lambda: tags)
    spent = {"seconds": seconds, "device": "GPU"} if seconds else None
    monkeypatch.setattr(cost, "read", lambda config: spent if config == experiment() else None)
    table.main()
    says = says.replace("TIME", "trained for 1.5 min on GPU")
    assert capsys.readouterr().out == f"the table\n{says}\n"
    table.main(long=True)
    assert capsys.readouterr().out == f"the long table\n{says}\n"
