"""What goes over a DVC remote, whatever kind it is: cached stages, and saves of a training."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from flows.cluster import remote_store, saves
from tests.support.shared_stage import Machines


def clone(folder: Path, url: str) -> Path:
    """An empty clone with this remote."""
    folder.mkdir(exist_ok=True)
    for command in ("git init -q", "dvc init -q", f"dvc remote add -q -d shared {url}"):
        subprocess.run(command.split(), cwd=folder, check=True)
    return folder


def exchange(folder: Path, url: str, variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines: a stage that one computed is cached at the other, and the newest save reaches it.

    `variables` of the environment let them into the remote.
    """
    machines = Machines(folder)
    machines.environment |= variables
    a, b = machines.clone("a"), machines.clone("b")
    for place in (a, b):
        command = f"dvc remote add -q -f -d shared {url}"
        subprocess.run(command.split(), cwd=place, check=True, env=machines.environment)
    machines.run(a)
    assert "is cached" in machines.run(b)
    assert machines.computed() == 1
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(a)
    store = remote_store.RemoteStore()
    assert not store.local
    first, second = (saves.Saves(store, "key", folder / name) for name in ("one", "two"))
    for one in (first, second):
        (one.scratch / "candidates").mkdir(parents=True)
    state = first.scratch / "state.part"
    for step in (5, 15, 27):
        state.write_bytes(f"state {step}".encode())
        state.rename(first.scratch / f"state-{step:07d}-{saves._digest(state)}.safetensors")
        assert first.share() == step
    assert len(store.listed(first.folder)) == 4
    [said] = second.fetch()
    assert "after update 27" in said
    first.remove()
    assert store.listed(first.folder) == []
