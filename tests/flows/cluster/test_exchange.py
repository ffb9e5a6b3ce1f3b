"""Frozen code, branches and records between two clones, over a bare repository with git's own commands."""

import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.cluster import exchange, settings, share
from flows.queue import admission, other_workers
from flows.runs import places, snapshots
from flows.runs.places import FlowError, git
from flows.runs.request import Request
from tests.conftest import ROOT
from tests.support.flows_lab import until

REQUEST = Request(version="v3", size="tiny", dataset="aa1-6x6", seed=7)
RUN = "0190aaaa-bbbb-cccc-dddd-0123456789ab"
OTHER = "0190aaaa-bbbb-cccc-dddd-0123456789ac"


class Clones:
    """Two clones of a bare repository; `at` makes one of them the current one."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.remote = patch, folder / "code.git"
        self.a, self.b = folder / "a", folder / "b"
        self.a.mkdir()
        git("init", "-q", "-b", "main", cwd=self.a)
        for name in ("presets.yaml", "params.yaml", "dvc.yaml"):
            (self.a / name).write_text((ROOT / name).read_text())
        (self.a / ".gitignore").write_text(".scratch/\n.prefect/\n")
        (self.a / "code.py").write_text("old\n")
        git("add", "-A", cwd=self.a)
        self.commit(self.a, "start")
        git("clone", "-q", "--bare", str(self.a), str(self.remote), cwd=folder)
        git("clone", "-q", str(self.remote), str(self.b), cwd=folder)
        git("remote", "add", "origin", str(self.remote), cwd=self.a)

    def commit(self, clone: Path, message: str) -> None:
        git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message, cwd=clone)

    def at(self, clone: Path) -> Path:
        self.patch.chdir(clone)
        return clone

    def there(self, pattern: str) -> list[str]:
        lines = git("for-each-ref", "--format=%(refname)", pattern, cwd=self.remote)
        return lines.split()

    def join(self) -> None:
        for clone in (self.a, self.b):
            self.at(clone)
            settings.write(settings.Settings(remote="origin"), "")

    def result(self, clone: Path, text: str, branch: str = "exp/v3/tiny/aa1-6x6/seed-7") -> str:
        """A commit with a lock of this text on a branch, made without any of our code."""
        (clone / "dvc.lock").write_text(text)
        git("add", "-f", "dvc.lock", cwd=clone)
        tree = git("write-tree", cwd=clone)
        who = {f"GIT_{r}_{w}": "t@t" for r in ("AUTHOR", "COMMITTER") for w in ("NAME", "EMAIL")}
        commit = git("commit-tree", tree, "-p", "HEAD", "-m", text, cwd=clone, **who)
        git("update-ref", f"refs/heads/{branch}", commit, cwd=clone)
        return commit


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clones:
    for name in ("ARC_HOME", "ARC_SCRATCH", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return Clones(tmp_path, monkeypatch)


def test_a_clone_that_has_not_joined_exchanges_nothing(clones: Clones) -> None:
    tree = clones.at(clones.a)
    [snapshot] = snapshots.freeze([REQUEST], tree)
    exchange.share_frozen([snapshot.commit])
    share.mark(RUN)
    assert clones.there("refs/arc") == []
    assert list(share.try_all()) == []
    assert share.receive() == []
    assert not (tree / ".scratch").exists()


@pytest.mark.slow
def test_frozen_code_with_uncommitted_changes_reaches_the_other_clone(clones: Clones) -> None:
    clones.join()
    tree = clones.at(clones.a)
    (tree / "code.py").write_text("changed\n")
    [snapshot] = snapshots.freeze([REQUEST], tree)
    exchange.share_frozen([snapshot.commit])
    clones.at(clones.b)
    assert snapshot.commit not in snapshots.frozen_commits()
    exchange.fetch_frozen()
    assert snapshot.commit in snapshots.frozen_commits()
    assert git("show", f"{snapshot.commit}:code.py", cwd=clones.b) == "changed"
    exchange.release(snapshot.commit)
    exchange.release(snapshot.commit)  # Another worker may have done it.
    assert clones.there("refs/arc/frozen") == []


def test_a_worker_fetches_the_code_of_waiting_runs_and_leaves_what_it_cannot_have(
    clones: Clones, capsys: pytest.CaptureFixture[str]
) -> None:
    clones.join()
    [snapshot] = snapshots.freeze([REQUEST], clones.at(clones.a))
    exchange.share_frozen([snapshot.commit])
    clones.at(clones.b)
    clones.patch.setattr(other_workers, "_next_fetch", 0.0)

    def run(variables: dict[str, Any] | None) -> Any:
        return SimpleNamespace(id=uuid.uuid4(), name="a run", job_variables=variables)

    known, away, odd = run(admission.variables(snapshot.commit)), run(admission.variables("a" * 40)), run({"env": {}})
    here, waiting = other_workers.frozen([known, away, odd])
    assert snapshot.commit in here
    assert waiting == {away.id}, "what is not frozen is this clone's business, since the server is"
    assert capsys.readouterr().out.count("is not at the git remote") == 1
    other_workers.frozen([known, away, odd])
    assert capsys.readouterr().out == "", "said once"
    clones.patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert other_workers.frozen([known, away, odd])[1] == {away.id, odd.id}


def test_files_of_ones_own_that_others_lack_are_named(clones: Clones) -> None:
    tree = clones.at(clones.a)
    own = tree / "data" / "own"
    own.mkdir(parents=True)
    for name in ("mine.json", "shared.json", "shared.json.dvc", "README.md"):
        (own / name).write_text("x")
    git("add", "data/own/README.md", cwd=tree)
    assert share.own_files_missing(tree) == ["data/own/mine.json"]


def test_a_flow_ends_with_its_worker() -> None:
    serving = [sys.executable, "-m", "flows.cluster.tied", "http.server", "0", "--bind", "127.0.0.1"]
    code = f"import subprocess, time; print(subprocess.Popen({serving!r}).pid, flush=True); time.sleep(100)"
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert worker.stdout
    try:
        child = psutil.Process(int(worker.stdout.readline()))
        until(lambda: child.net_connections(), 30)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)


def test_two_results_of_one_name_stay_both_in_the_history(clones: Clones) -> None:
    clones.join()
    branch = "exp/v3/tiny/aa1-6x6/seed-7"
    clones.at(clones.a)
    first = clones.result(clones.a, "of a")
    exchange.push_branch(branch)
    clones.at(clones.b)
    second = clones.result(clones.b, "of b")
    exchange.push_branch(branch)
    tip = git("rev-parse", f"refs/heads/{branch}", cwd=clones.remote)
    assert git("show", f"{tip}:dvc.lock", cwd=clones.remote) == "of b"
    history = git("rev-list", tip, cwd=clones.remote).split()
    assert {first, second} < set(history)
    clones.at(clones.a)
    assert exchange.fetch_branches() == []
    assert git("rev-parse", f"refs/heads/{branch}", cwd=clones.a) == tip


def test_a_branch_that_cannot_follow_is_said_and_kept(clones: Clones) -> None:
    clones.join()
    clones.at(clones.a)
    clones.result(clones.a, "of a")
    exchange.push_branch("exp/v3/tiny/aa1-6x6/seed-7")
    clones.at(clones.b)
    mine = clones.result(clones.b, "of b")
    [line] = exchange.fetch_branches()
    assert "exp/" in line
    assert git("rev-parse", "exp/v3/tiny/aa1-6x6/seed-7", cwd=clones.b) == mine


def write_records(run: str, title: str) -> Path:
    folder = places.folder_of(run)
    (folder / "scores").mkdir(parents=True)
    (folder / "title").write_text(title)
    (folder / "stages.json").write_text("[]")
    (folder / "scores" / "best-votes.json").write_text("{}")
    (folder / "flow.log").write_text("long")
    return folder


def test_records_of_a_run_reach_the_other_clone_and_its_own_stay(clones: Clones) -> None:
    clones.join()
    clones.at(clones.b)
    write_records(RUN, "a run of b")
    share.mark(RUN)
    assert list(share.try_all()) == []
    assert list(share.try_all()) == []
    assert not (places.folder_of(RUN) / share.UNSHARED).exists()
    clones.at(clones.a)
    own = write_records(OTHER, "a run of a")
    exchange.push_records(OTHER)
    (own / "title").write_text("changed since")
    assert share.receive() == []
    folder = places.folder_of(RUN)
    assert (folder / "title").read_text() == "a run of b"
    assert (folder / "scores" / "best-votes.json").read_text() == "{}"
    assert not (folder / "flow.log").exists()
    assert (own / "title").read_text() == "changed since"
    clones.at(clones.b)
    (places.folder_of(RUN) / "title").write_text("later")
    exchange.push_records(RUN)
    clones.at(clones.a)
    share.receive()
    assert (folder / "title").read_text() == "later"


def test_links_in_foreign_records_lead_nowhere(clones: Clones, tmp_path: Path) -> None:
    clones.join()
    clones.at(clones.b)
    folder = write_records(RUN, "a run")
    (folder / "title").unlink()
    (folder / "title").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("secret")
    exchange.push_records(RUN)
    clones.at(clones.a)
    share.receive()
    copied = places.folder_of(RUN) / "title"
    assert not copied.is_symlink()
    assert "secret" not in copied.read_text().splitlines()


def test_old_records_are_forgotten_everywhere(clones: Clones) -> None:
    clones.join()
    clones.at(clones.b)
    write_records(RUN, "old")
    clones.patch.setenv("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z")
    exchange.push_records(RUN)
    clones.patch.delenv("GIT_COMMITTER_DATE")
    write_records(OTHER, "new")
    exchange.push_records(OTHER)
    exchange.forget_old_records()
    assert clones.there("refs/arc/records") == [f"refs/arc/records/{OTHER}"]


def test_what_cannot_be_shared_yet_stays_and_says_why(clones: Clones) -> None:
    clones.join()
    clones.at(clones.b)
    write_records(RUN, "a run")
    share.mark(RUN)
    moved = clones.remote.rename(clones.remote.with_name("away.git"))
    [line] = share.try_all()
    assert "not shared yet" in line
    moved.rename(clones.remote)
    assert list(share.try_all()) == []
    assert clones.there("refs/arc/records") == [f"refs/arc/records/{RUN}"]


def test_a_remote_that_wants_a_password_fails_at_once(clones: Clones) -> None:
    clones.join()
    clones.at(clones.b)
    subprocess.run(["git", "remote", "set-url", "origin", "http://127.0.0.1:9/x.git"], check=True)
    with pytest.raises(FlowError, match="git fetch"):
        exchange.fetch_frozen()
