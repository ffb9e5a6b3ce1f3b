"""Results on exp/ branches of a real git repository: what DVC's cache lacks, and what the MLflow store never had."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.runs import places, snapshots
from flows.runs.places import FlowError, git
from flows.worker import hold, kept_results, night_store
from tasks.common import paths
from tasks.tracking import mlflow_runs, store


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.setattr(hold, "cache", lambda root: root / "cache")
    git("init", "-q", "-b", "main", cwd=tmp_path)
    return tmp_path / "cache"


def keep(cache: Path, content: bytes, suffix: str = "") -> str:
    """Put an object into the cache as DVC does; returns its hash."""
    name = hashlib.md5(content).hexdigest() + suffix
    path = cache / "files" / "md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def branch(name: str, outs: list[dict[str, Any]], key: str = "") -> str:
    """A branch exp/NAME whose dvc.lock has these outputs; published with a key."""
    home = places.home()
    (home / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train": {"outs": outs}, "none": {}}}))
    (home / paths.PUBLISHED).parent.mkdir(parents=True, exist_ok=True)
    (home / paths.PUBLISHED).unlink(missing_ok=True)
    if key:
        (home / paths.PUBLISHED).write_text(json.dumps({"key": key}))
    git("add", "-A", "-f", "dvc.lock", "data", cwd=home) if key else git("add", "dvc.lock", cwd=home)
    author = snapshots.identity(home)
    commit = git("commit-tree", git("write-tree", cwd=home), "-m", name, cwd=home, **author)
    git("update-ref", f"refs/heads/exp/{name}", commit, cwd=home)
    git("rm", "-q", "--cached", "-r", ".", cwd=home)
    return commit


def test_what_the_cache_lacks_is_found_also_in_folders_and_by_size(cache: Path) -> None:
    file = keep(cache, b"weights")
    inner = keep(cache, b"[1]")
    listed = [{"md5": inner, "relpath": "a"}, {"md5": "0" * 32, "relpath": "b"}]
    whole, partial = (keep(cache, json.dumps(rows).encode(), ".dir") for rows in (listed[:1], listed))
    outs = [
        {"path": "same", "md5": file, "size": 7},
        {"path": "folder", "md5": whole, "size": 3},
        {"path": "cut", "md5": file, "size": 8},
        {"path": "away", "md5": "1" * 32},
        {"path": "away", "md5": "2" * 32},
        {"path": "in part", "md5": partial},
        {"path": str(paths.PUBLISHED), "md5": "3" * 32},
    ]
    lost = branch("lost", outs)
    good = branch("good", outs[:2])
    assert kept_results.branches() == {"exp/good": good, "exp/lost": lost}
    assert kept_results.lost(lost, cache) == ["away", "cut", "in part"]
    assert list(kept_results.lost_by_branch()) == [("exp/lost", ["away", "cut", "in part"])]


def test_only_what_was_published_and_the_store_never_had_is_published_again(cache: Path, monkeypatch: Any) -> None:
    commits = {name: branch(name, [], key) for name, key in (("had", "k1"), ("new", "k2"), ("bad", "k3"), ("own", ""))}
    monkeypatch.setattr(mlflow_runs, "ever_held", lambda _, key: key == "k1")
    assert kept_results.unpublished() == {f"exp/{name}": commits[name] for name in ("bad", "new")}
    done: list[Any] = []
    monkeypatch.setattr(snapshots, "remove", lambda run: done.append("removed"))
    monkeypatch.setattr(snapshots, "create_worktree", lambda commit, _: done.append(commit) or cache)

    def run(command: Any, cwd: Path, **_: Any) -> Any:
        done.append(command)
        failed = done[-2] == commits["bad"]
        return subprocess.CompletedProcess([], int(failed), "said\n", "no\nspace\n" if failed else "")

    monkeypatch.setattr(kept_results, "subprocess", SimpleNamespace(run=run))
    assert list(kept_results.publish_all()) == [
        ("exp/bad: not published: no space", False),
        ("exp/new: said", True),
    ]
    checkout, publish = ("dvc", "checkout", "--quiet"), (sys.executable, "-m", "tasks.publish", "--if-missing")
    bad = ["removed", commits["bad"], checkout, "removed"]
    assert done == [*bad, "removed", commits["new"], checkout, publish, "removed"]


def test_a_damaged_lock_is_named(cache: Path) -> None:
    with pytest.raises(FlowError, match="git show"):
        kept_results.lost("0" * 40, cache)


def test_the_night_has_rows_of_results_that_no_run_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(key: str, **tags: str) -> Any:
        info = SimpleNamespace(run_id=f"id-{key}", run_name=f"name of {key}", experiment_id="1")
        data = SimpleNamespace(tags={"arc.key": key, **tags}, metrics={"cost/training_minutes": 1.5})
        return SimpleNamespace(info=info, data=data)

    found = [run("new", **{"arc.device": "H100"}), run("known"), run("kept", **{"arc.kept_in": "docs"}), run("cpu")]
    asked: list[str] = []

    class Client:
        def search_experiments(self) -> list[Any]:
            return [SimpleNamespace(experiment_id="1")]

        def search_runs(self, experiments: list[str], wanted: str, max_results: int) -> list[Any]:
            asked.append(wanted)
            assert (experiments, max_results) == (["1"], 1000)
            if "parentRunId" not in wanted:
                return found
            names = ("final", "best") if "id-new" in wanted else ()
            tags = [{"arc.checkpoint": name, "arc.evaluation": "votes"} for name in names]
            infos = [SimpleNamespace(run_id=name) for name in names]
            return [SimpleNamespace(info=i, data=SimpleNamespace(tags=t)) for i, t in zip(infos, tags, strict=True)]

    place = SimpleNamespace(empty=True)
    monkeypatch.setattr("flows.worker.night_store.store.configured_store", lambda: place)
    monkeypatch.setattr(mlflow_runs, "connect", lambda _: Client())
    monkeypatch.setattr("mlflow.artifacts.load_text", lambda address: json.dumps({"from": address}))
    start = SimpleNamespace(timestamp=lambda: 12.5)
    assert night_store.rows(start, ()) == []
    place.empty = False
    for name, key in (("a", "known"), ("b", "other")):
        file = cache.parent / ".scratch" / "runs" / name / "published.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"key": key}))
    assert night_store.known_keys() == {"known", "other"}
    new, cpu = night_store.rows(start, night_store.known_keys())
    assert "attributes.end_time > 12500" in asked[0]
    assert (new.run, new.name, new.took, new.gpu_minutes) == ("new", "name of new", "1 min 30 s", 1.5)
    assert new.scores == {"best-votes": {"from": "runs:/best/score.json", "title": "name of new"}}
    assert (cpu.gpu_minutes, cpu.scores) == (0.0, {})


def test_a_store_that_does_not_answer_hides_only_its_own_rows(cache: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    monkeypatch.setitem(store.SETTINGS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert night_store.reachable_rows(datetime.now(UTC)) == []
    said = capsys.readouterr().err
    assert said.startswith("without the results of `dvc repro`: MLflow at http://127.0.0.1:9: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", ["", '{"kye": 1}', '{"key": "half'])
def test_a_damaged_record_of_a_publication_hides_no_other(cache: Path, capsys: Any, content: str) -> None:
    for name, text in (("a", '{"key": "k", "runs": {}}'), ("b", content)):
        file = cache.parent / ".scratch" / "runs" / name / "published.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert night_store.known_keys() == {"k"}
    assert "b/published.json is damaged" in capsys.readouterr().err
    assert night_store.known_keys() == {"k"}
