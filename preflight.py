"""What `make setup` checks before it builds anything: one sentence for what could only fail later.

It runs under whatever Python 3 there is, before the environment exists: standard library and old syntax only.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path


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


if __name__ == "__main__":
    found = problem()
    if found:
        sys.exit(f"setup: {found}")
