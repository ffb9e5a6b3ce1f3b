"""Two machines whose git remote and DVC remote are on a third, which they reach by SSH."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cluster import checks
from tests.support import shared_remote, ssh
from tests.support.cluster_lab import Cluster, home, started
from tests.support.flows_lab import ENDED, SHORT, until

pytestmark = [pytest.mark.slow, pytest.mark.night]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ssh.Server]:
    with ssh.server(tmp_path / "ssh") as made:
        yield made


def test_stages_and_saves_go_over_ssh(server: ssh.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{server.url}{tmp_path}/objects"
    shared_remote.exchange(tmp_path, url, server.home(tmp_path / "home"), monkeypatch)


def test_a_machine_without_the_key_is_refused(
    server: ssh.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}{tmp_path}/objects"
    here = shared_remote.clone(tmp_path / "clone", url)
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "code.git")], check=True)
    subprocess.run(["git", "remote", "add", "origin", f"{server.url}{tmp_path}/code.git"], cwd=here, check=True)
    monkeypatch.setenv("ARC_HOME", str(here))
    monkeypatch.chdir(here)
    for known in (False, True):
        for name, text in server.home(tmp_path / "home", known).items():
            monkeypatch.setenv(name, text)
        [(_, found, fix)] = checks.data_remote(url)
        assert (fix == "") is known, found
        assert known or ("Permission denied" in found and "IdentityFile" in fix)
        [(_, found, fix)] = checks.git_remote("origin")
        assert known or ("Permission denied" in found and "git" in fix)


def test_an_experiment_goes_over_ssh(server: ssh.Server, tmp_path: Path) -> None:
    with started(tmp_path) as cluster:
        a, b = cluster.a, cluster.b
        for lab in (a, b):
            lab.environment |= server.home(home(lab.folder))
            lab.sh("git", "remote", "set-url", "origin", f"{server.url}{cluster.remote}")
        a.arc("queue", "--list")
        objects = f"{server.url}{cluster.data}"
        for lab in (a, b):
            secret = {} if lab is a else {"PREFECT_API_AUTH_STRING": cluster.secret()}
            said = cluster.join(lab, mlflow=False, data=objects, **secret)
            assert f"{objects} can be written" in " ".join(said.split())
        b.start_worker()
        [run] = a.queue(SHORT)
        until(lambda: a.state(run) in ENDED, 300)
        assert a.state(run) == "COMPLETED", (a.states(run), a.log(run)[-20:])
        [branch] = until(cluster.branches, 60)
        until(lambda: not list(b.folder.glob(".scratch/runs/*/unshared")), 60)
        assert_all_came(cluster, branch)


def assert_all_came(cluster: Cluster, branch: str) -> None:
    """A shows the run that B has executed, and gets its files."""
    a = cluster.a
    assert "seed 0" in a.arc("night")
    a.arc("restore", branch)
    [folder] = (a.folder / ".scratch" / "restored").glob("*")
    assert list((folder / "data" / "checkpoints" / "candidates").rglob("*.safetensors"))
