"""Damages every file that a stage reads, one after the other, and starts the stage on it.

`python -m tests.support.damaged_stage STAGE [ARGUMENT ...]` in the folder of a finished experiment prints, as JSON, the
end of the stage for each file and damage: "refused: MESSAGE", "named" in its output, or "passed". An audit hook on
`open` finds the files.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.damage import DAMAGES

IGNORED = ("mlflow.db", "mlartifacts", "locks", ".dvc/")


def _fork(module: str, arguments: list[str], *, record: bool = False) -> tuple[int, str, list[str]]:
    """Exit status, last line and opened files of the stage in a fork of this process, in a copy of this folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        process = os.fork()
        if process == 0:
            os._exit(_child(module, arguments, report, record))
        _, status = os.waitpid(process, 0)
        message, opened = json.loads(report.read_text())
        return os.waitstatus_to_exitcode(status), message, opened


def _child(module: str, arguments: list[str], report: Path, record: bool) -> int:
    opened: list[str] = []

    def hook(event: str, parts: tuple[object, ...]) -> None:
        if not record or event != "open" or not isinstance(parts[0], str | bytes):
            return
        if isinstance(parts[2], int) and not parts[2] & (os.O_WRONLY | os.O_CREAT):
            opened.append(str(Path(os.fsdecode(parts[0])).absolute()))

    sys.addaudithook(hook)
    code, message, printed = 0, "", io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            importlib.import_module(module).main(*arguments)
        except SystemExit as error:
            code, message = (0, "") if error.code in (None, 0) else (1, str(error.code))
        except BaseException as error:
            code, message = 2, f"{type(error).__name__}: {error}"
    report.write_text(json.dumps([message if code else printed.getvalue(), opened]))
    return code


def _read(opened: list[str]) -> Iterator[Path]:
    here = Path.cwd()
    for name in dict.fromkeys(opened):
        path = Path(name)
        if path.is_file() and path.is_relative_to(here):
            inside = path.relative_to(here)
            if inside.suffix not in (".py", ".pyc", ".part") and not str(inside).startswith(IGNORED):
                yield inside


@contextlib.contextmanager
def _damaged(path: Path, damage: str) -> Iterator[None]:
    """The file with its size of before where that is possible, and always its time: DVC would not notice."""
    kept, times = path.read_bytes(), path.stat()
    path.chmod(0o644)
    path.write_bytes(DAMAGES[damage](kept))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(kept)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def main(stage: str, *arguments: str) -> None:
    """Print the outcomes."""
    module = f"tasks.{stage}"
    importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        # What the stage writes or removes must be there again for the next start.
        shutil.copytree(".", folder, dirs_exist_ok=True, symlinks=True)
        os.chdir(folder)
        code, message, opened = _fork(module, list(arguments), record=True)
        assert code == 0, f"{stage} fails on whole files: {message}"
        outcomes = {}
        for path in _read(opened):
            for damage in DAMAGES:
                if not path.exists():
                    continue
                with _damaged(path, damage):
                    code, message, _ = _fork(module, list(arguments))
                named = "named" if str(path) in message else "passed"
                outcomes[f"{path} {damage}"] = {0: named, 1: f"refused: {message}"}.get(code, f"crashed: {message}")
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
