"""What `make setup` needs: a lock that every machine can resolve, and one sentence for what cannot work."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOCK = (ROOT / "constraints.txt").read_text().split()
PLAIN = {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def outside() -> dict[str, str]:
    """The environment without this machine's configuration of pip and uv; certificates are kept, they name no index."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_")) or k == "PIP_CERT"}
    if "PIP_CERT" in kept:
        kept["SSL_CERT_FILE"] = kept["PIP_CERT"]
    return kept | PLAIN


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_every_line_of_the_lock_is_a_version_that_any_index_has():
    assert len(LOCK) > 150
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []


@pytest.mark.night
def test_pip_resolves_the_lock_without_our_configuration(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    done = run(
        str(tmp_path / "venv/bin/python"), "-m", "pip", "install", "--dry-run", "--ignore-installed",
        "--cache-dir", str(tmp_path / "cache"), "-c", "constraints.txt", "-e", ".[dev]",
        cwd=ROOT, env=outside(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"\btorch-2\.13\.0(?![.+\w])", done.stdout.splitlines()[-1])


@pytest.mark.night
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_uv_resolves_the_lock_without_our_configuration(python, tmp_path):
    done = run(
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", python,
        "--python-platform", "linux",
        "--extra", "dev", "--extra", "s3", "--extra", "ssh", "-c", "constraints.txt",
        "--cache-dir", str(tmp_path), "pyproject.toml",
        cwd=ROOT, env=outside(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torch==2.13.0\n" in done.stdout


def checked(folder: Path, **environment: str) -> str:
    done = run(sys.executable, str(ROOT / "set_up.py"), "--check", cwd=folder, env={**os.environ, **environment})
    assert done.returncode == (1 if done.stderr else 0)
    assert len(done.stderr.splitlines()) <= 1
    return done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a b %" / "ü?"
    folder.mkdir(parents=True)
    assert run("git", "init", "-q", cwd=folder).returncode == 0
    return folder


def test_a_checkout_in_a_folder_of_any_name_passes(checkout):
    assert checked(checkout) == ""


def test_an_archive_without_git_is_one_sentence(checkout):
    shutil.rmtree(checkout / ".git")
    assert re.search(r"no git checkout .*git init && git add -A && git commit", checked(checkout))


def test_a_folder_inside_another_checkout_is_no_checkout(checkout):
    (checkout / "inside").mkdir()
    assert "no git checkout" in checked(checkout / "inside")


def test_a_checkout_of_another_user_is_one_sentence(checkout):
    said = checked(checkout, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert re.search(r"another user owns it.*safe.directory", said)


def test_no_git_at_all_is_one_sentence(checkout, tmp_path):
    assert "git is not installed" in checked(checkout, PATH=str(tmp_path))


def test_a_colon_in_the_path_is_one_sentence(tmp_path):
    (tmp_path / "a:b").mkdir()
    assert "move the checkout" in checked(tmp_path / "a:b")


@pytest.mark.slow
@pytest.mark.parametrize("ready", [pytest.param(True, marks=pytest.mark.night), False])
def test_an_update_without_network_leaves_the_environment_that_works(tmp_path, ready):
    """However often it is tried; a half-made environment is made anew."""
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    venv.create(tmp_path / ".venv", with_pip=True, symlinks=True)
    (tmp_path / ".venv" / "ours").touch()
    (tmp_path / ".venv" / "ready" if ready else tmp_path / ".venv.incomplete").touch()
    for attempt in range(3):
        done = run(
            sys.executable, str(ROOT / "set_up.py"),
            cwd=tmp_path, env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
        )  # fmt: skip
        assert "pip install" in done.stderr
        assert "run make setup again" in done.stderr
        assert (tmp_path / ".venv" / "ours").exists() == ready, attempt
        assert not (tmp_path / ".venv" / "ready").exists(), "the next make tries again"


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["", "pyvenv.cfg"])
def test_the_python_of_a_deleted_environment_makes_the_next_one(checkout, lost):
    """Make puts .venv/bin first in PATH: after an interruption the half-made environment's Python runs set_up.py."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout / name)
    folder = checkout.parent.parent / "plain"
    checkout.rename(folder)
    venv.create(folder / ".venv", with_pip=False, symlinks=True)
    (folder / ".venv.incomplete").touch()
    if lost:  # A kill while the environment was deleted.
        (folder / ".venv" / lost).unlink()
    done = run(
        str(folder / ".venv/bin/python3"), str(ROOT / "set_up.py"),
        cwd=folder, env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
    )  # fmt: skip
    assert "pip install" in done.stderr  # Nothing can be installed without an index.
    assert run(str(folder / ".venv/bin/python"), "-m", "pip", "--version").returncode == 0
