"""`make setup`: the environment .venv with the pinned dependencies, whatever an interruption has left behind.

It runs under whatever Python 3 there is, before the environment exists: standard library and old syntax only.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

VENV = Path(".venv")
READY = VENV / "ready"
"""Made last: the environment is whole."""
INCOMPLETE = Path(".venv.incomplete")
"""Stands while the environment is built. pip cannot tell a half-written package from a whole one, so an environment
that an interruption left half made is deleted and built anew; downloads are kept in pip's cache."""

BASE = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
"""The Python that makes the environment. Make puts .venv/bin first in PATH, so this script may run under the Python of
the environment that it deletes, which does not even know that it is one if its pyvenv.cfg is gone already."""


def problem():
    """The first reason why this checkout cannot be set up, and what to do, in one line; None if there is none."""
    here, version = Path.cwd(), sys.version_info
    if version < (3, 11):
        return f"Python 3.11 or later is needed, this is {version[0]}.{version[1]}; try make setup PYTHON=python3.12"
    if os.pathsep in str(here):
        return f"the name of {here} holds {os.pathsep!r}, which separates the entries of PATH; move the checkout"
    if shutil.which("git") is None:
        return "git is not installed; DVC and the queue need it"
    done = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    if "dubious ownership" in done.stderr:
        return (
            "git refuses this checkout because another user owns it; take it over (chown), clone it yourself, or run "
            f"git config --global --add safe.directory '{here}'"
        )
    if done.returncode or Path(done.stdout.rstrip("\n")).resolve() != here.resolve():
        return (
            f"{here} is no git checkout (a downloaded archive?), but DVC needs one; clone the repository, or run "
            "git init && git add -A && git commit -m start"
        )
    return None


def target():
    """Where the environment lies: here, or behind the link .venv where the checkout's name holds a per cent sign.

    MLflow's database migrations cannot be read from such a folder (Python's configparser expands per cent signs).
    """
    here = Path.cwd()
    if "%" not in str(here):
        return VENV
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arc-diffusion"
    return cache / ("venv-" + hashlib.sha256(os.fsencode(here)).hexdigest()[:16])


def build():
    """Make or update the environment. Raises CalledProcessError where a command fails."""
    place = target()
    whole = (place / "bin" / "python").exists() and not INCOMPLETE.exists()
    if INCOMPLETE.exists():
        shutil.rmtree(place, ignore_errors=True)
    INCOMPLETE.touch()
    READY.unlink(missing_ok=True)
    if place != VENV and VENV.resolve() != place.resolve():
        if VENV.is_symlink():
            VENV.unlink()
        place.parent.mkdir(parents=True, exist_ok=True)
        VENV.symlink_to(place)
    if not (place / "bin" / "python").exists():
        subprocess.run([BASE, "-m", "venv", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, "-c", "constraints.txt", "-e", ".[dev]"])
    # A pip that ends by itself, as without a network, puts back what it replaced; one that is killed does not.
    if installed.returncode == 0 or (whole and installed.returncode > 0):
        INCOMPLETE.unlink()
    installed.check_returncode()
    READY.touch()


def main(arguments):
    """Set up; `--check` only looks for problems, `--where` prints the folder of the environment's commands."""
    if "--where" in arguments:
        print(Path.cwd() / target() / "bin")
        return
    found = problem()
    if found:
        sys.exit(f"setup: {found}")
    if "--check" in arguments:
        return
    try:
        build()
    except subprocess.CalledProcessError as error:
        sys.exit(f"setup: {' '.join(map(str, error.cmd))} failed (its own message is above); run make setup again")
    except OSError as error:
        sys.exit(f"setup: {error}; run make setup again")


if __name__ == "__main__":
    main(sys.argv[1:])
