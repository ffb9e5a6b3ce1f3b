"""Coverage-guided inputs to the parsers of what people write: JSON, YAML, tasks and names of experiments.

`pip install atheris`, then `python -m tests.support.fuzz_parsers CORPUS_FOLDER -runs=100000`. It ends with a traceback
at the first input that is neither read nor refused in one line, takes 5 s, or writes, deletes or starts anything.
"""

import sys
import time
from typing import Any

import atheris

with atheris.instrument_imports(include=["tasks", "model", "yaml", "json"]):
    from model.puzzles.grids import GridError
    from tasks.common import documents, params
    from tasks.common.documents import DocumentError
    from tasks.common.presets import ConfigurationError, parse_name
    from tasks.serving import solving

REFUSALS = (ConfigurationError, DocumentError, GridError)
EFFECTS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.system", "socket.connect", "subprocess.Popen")
LONGEST_SECONDS = 5.0

effects: list[Any] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes what changes something outside of the process."""
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in EFFECTS:
        effects.append((event, arguments))


def parse(kind: int, content: bytes) -> None:
    """Give the content to one of the parsers."""
    text = content.decode(errors="replace")
    if kind == 0:
        documents.parse_json(content, "file")
    elif kind == 1:
        documents.parse_yaml(text, "file")
    elif kind == 2:
        tasks = documents.parse_json(content, "file")
        if isinstance(tasks, dict):
            solving.parse(tasks)
    elif kind == 3:
        parse_name(text)
    else:
        params.override({"version": "v3", "train": {"batch": 8}}, text)


def one(data: bytes) -> None:
    """The first byte chooses the parser, the others are its input."""
    if not data:
        return
    started = time.monotonic()
    try:
        parse(data[0] % 5, data[1:])
    except REFUSALS as error:
        assert "\n" not in str(error), str(error)
    assert time.monotonic() - started < LONGEST_SECONDS
    assert not effects, effects


if __name__ == "__main__":
    sys.addaudithook(watch)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
