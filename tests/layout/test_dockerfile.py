"""The Dockerfile: known instructions, a pinned base, no root, no secret, and four files that suffice to install."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

KNOWN = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments; continued lines are joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line)]


def copied() -> list[str]:
    return [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]


def test_every_instruction_is_known_and_the_base_is_pinned() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= KNOWN
    assert words[0] == "FROM"
    assert words.count("CMD") == 1
    assert words[-1] == "CMD"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", instructions()[0][1])


def test_it_runs_as_nobody_special_and_holds_no_secret() -> None:
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    for word, rest in instructions():
        if word in ("ENV", "COPY"):
            assert not re.search("secret|password|key|token|auth", rest, re.IGNORECASE), rest


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("no hadolint: make setup")
    # Debian's mirrors keep no old versions, so that a pinned one could be installed for a few weeks only.
    done = subprocess.run(
        [program, "--no-color", "--ignore", "DL3008", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_only_what_is_copied_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["*", *(f"!{name}" for name in copied())]
    assert all((ROOT / name).is_file() for name in copied())


def test_apt_and_pip_leave_nothing_behind() -> None:
    for _, rest in (row for row in instructions() if row[0] == "RUN"):
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "&& rm -rf /var/lib/apt/lists/*" in rest
        if "pip install" in rest:
            assert "--no-cache-dir" in rest
            assert "--constraint constraints.txt" in rest


def test_the_command_is_a_shell_program_that_ends_as_the_worker() -> None:
    shell, option, program = json.loads(instructions()[-1][1])
    assert (shell, option) == ("sh", "-c")
    subprocess.run(["sh", "-n", "-c", program], check=True)
    assert program.endswith("exec python -m flows.arc worker")


@pytest.mark.slow
def test_the_copied_files_install_no_code_of_ours(tmp_path: Path) -> None:
    for name in copied():
        shutil.copy(ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "made", "."]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    if "No module named" in done.stderr or "Cannot import" in done.stderr:
        pytest.skip("this environment has no setuptools to build with")
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "made").glob("*.whl")
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True).stdout
    assert not re.search(r"^(model|tasks|flows)/", listed, re.MULTILINE)
