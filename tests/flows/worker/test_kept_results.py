"""What of the kept results is lost: objects of DVC's cache, by a real `dvc` project, and runs of MLflow."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.runs import places
from flows.runs.places import git
from flows.worker import doctor, hold, kept_results
from tasks.common import paths
from tasks.tracking import mlflow_runs

STAGES = {
    "stages": {
        "make": {"cmd": "mkdir -p out && echo a > out/a && echo b > out/b && echo c > c", "outs": ["out", "c"]},
        "publish": {
            "cmd": 'mkdir -p data/reports && echo \'{"key": "k1"}\' > data/reports/published.json',
            "deps": ["c"],
            "outs": [{"data/reports/published.json": {"cache": False}}],
        },
    }
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project with one finished result on exp/first."""
    monkeypatch.chdir(tmp_path)
    for name in ("ARC_HOME", "ARC_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "-q", "-b", "main")
    git("config", "user.name", "t")
    git("config", "user.email", "t@t")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(STAGES))
    for command in (["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        subprocess.run(command, check=True)
    git("add", "--force", "dvc.lock", str(paths.PUBLISHED))
    git("add", "-A")
    git("commit", "-qm", "first")
    git("branch", "exp/first")
    return tmp_path


def files(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "files" / "md5").rglob("*") if path.is_file())


@pytest.mark.slow
def test_each_lost_or_cut_object_is_found_and_nothing_else(project: Path) -> None:
    cache = hold.cache(places.home())
    assert list(kept_results.lost_by_branch()) == []
    assert len(files(cache)) == 4, "a folder, its two files, and a file"
    found = {}
    for path in files(cache):
        content = path.read_bytes()
        path.chmod(0o600)
        for damaged in (None, b"x" * (len(content) + 1)):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            if damaged and content != b"c\n":
                continue  # No size is known of a folder and of what is in it; `dvc checkout` compares digests.
            [(name, missing)] = kept_results.lost_by_branch()
            assert name == "exp/first"
            found[path.name, damaged is None] = missing[0]
            path.write_bytes(content)
        path.write_bytes(content)
    assert sorted(found.values()) == ["c"] * 2 + ["out"] * 3
    assert list(kept_results.lost_by_branch()) == []


@pytest.mark.slow
def test_the_doctor_finds_lost_objects_and_a_store_that_lacks_a_branch(project: Path, monkeypatch) -> None:
    held = {"k1"}
    monkeypatch.setattr(mlflow_runs, "ever_held", lambda _, key: key in held)
    [whole] = doctor.results()
    assert (whole.found, whole.fix) == ("1 exp/ branches, whole in DVC's cache and in MLflow", "")
    held.clear()
    [lacks] = doctor.results()
    assert (lacks.found, lacks.fix) == ("the MLflow store lacks 1 branches, such as exp/first", "`arc publish`")
    shutil.rmtree(hold.cache(places.home()) / "files")
    lost, lacks = doctor.results()
    assert "exp/first: DVC's cache lacks 2 outputs, such as c" in lost.found
    assert "git switch exp/first && dvc repro" in lost.fix


@pytest.mark.slow
def test_everything_that_the_store_lacks_is_published_with_the_code_of_its_branch(project: Path, monkeypatch) -> None:
    (project / "tasks").mkdir()
    (project / "tasks" / "__init__.py").touch()
    (project / "tasks" / "publish.py").write_text("print('published', open('out/b').read().strip())")
    git("add", "-A")
    git("commit", "-qm", "code")
    git("branch", "-f", "exp/first")
    monkeypatch.setattr(mlflow_runs, "ever_held", lambda *_: False)
    # Python looks for modules where it runs before it looks at PYTHONPATH.
    assert list(kept_results.publish_all()) == [("exp/first: published b", True)]
    assert not list((places.scratch() / "worktrees").glob("*"))
    shutil.rmtree(hold.cache(places.home()) / "files")
    [(line, done)] = kept_results.publish_all()
    assert not done
    assert line.startswith("exp/first: not published: ")
    assert json.loads((project / paths.PUBLISHED).read_text()) == {"key": "k1"}
