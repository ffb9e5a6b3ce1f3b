"""The `arc` command as a shell calls it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import completion
from flows.arc import app
from tests.conftest import ROOT

PRESETS = yaml.safe_load((ROOT / "presets.yaml").read_text())


def arc(*arguments: str, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "flows.arc", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_help_groups_every_command_and_says_what_it_does() -> None:
    shown = arc("--help", COLUMNS="200").stdout
    assert "─ Commands ─" not in shown, "a command without a panel"
    panels = re.findall(r"─ (.+?) ─+╮", shown)
    assert panels == ["Options", "Run experiments", "Look at results", "Use and share results", "This machine"]
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    for name in names:
        assert re.search(rf"│ {name} +\w.*\.", shown), name
    assert {"params", "table", "bench", "ui", "publish", "restore"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c.name or c.callback.__name__ for c in app.registered_commands])
def test_every_command_explains_itself(command: str) -> None:
    done = arc(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"arc {command}" in done.stdout


def test_the_version_names_the_commit() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    printed = arc("--version").stdout
    assert printed.startswith("arc-diffusion 0.")
    commit = printed.strip().partition("commit ")[2].removesuffix("-dirty")
    assert len(commit) >= 7
    assert head.startswith(commit)


@pytest.mark.slow
def test_a_shell_completes_experiments_of_the_presets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    every = {f"{v}/{s}/{d}" for v in PRESETS["versions"] for s in PRESETS["sizes"] for d in PRESETS["datasets"]}
    assert set(completion.experiments("")) == every
    asked = {"_ARC_COMPLETE": "complete_bash", "COMP_WORDS": "arc queue v3/smol/aa", "COMP_CWORD": "2"}
    code = "from flows.arc import app; app(prog_name='arc')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == {f"v3/smol/{name}" for name in PRESETS["datasets"]}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert completion.experiments("") == []
    assert completion.experiments_or_paths("da") == ["data/"]


def test_a_wrong_request_starts_no_server(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_HOME": str(tmp_path / "prefect")}
    done = arc("queue", "v3/smal/aa1", **settings)
    assert done.returncode == 1
    assert "did you mean 'smol'?" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "prefect" / "server.log").exists()
