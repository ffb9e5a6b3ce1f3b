"""The reader of JSON and YAML files: regular files only, with limits. Errors are one line with the file and the place.

Limits: bytes, depth, digits of an integer, and, in YAML, the number of nodes after every alias is expanded. Repeated
keys, NaN and infinities are refused.
"""

import json
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

LARGEST_JSON = 64 * 2**20
LARGEST_YAML = 2**20
"""Bytes of a file."""
DEEPEST = 50
"""Lists and objects inside each other."""
MOST_NODES = 10**6
"""Values of a YAML document, with aliases expanded."""
LONGEST_NUMBER = 40
"""Characters of an integer in YAML. JSON's integers have Python's limit, 4,300 digits."""


class DocumentError(ValueError):
    """A file that cannot be read. The message is one line: file, place, what is wrong."""


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a regular file of at most `largest` bytes; never waits, as opening a FIFO would."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DocumentError(f"{path} is no regular file")
            content = file.read(largest + 1)
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > largest:
        raise DocumentError(f"{path} has {status.st_size} bytes; at most {largest} are allowed")
    return content


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises DocumentError."""
    return parse_json(read_bytes(path, LARGEST_JSON), str(path))


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises DocumentError."""
    return parse_yaml(read_yaml_text(path), str(path))


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file. Raises DocumentError."""
    return _decoded(read_bytes(path, LARGEST_YAML), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """The value of a JSON text; `where` begins the messages. Raises DocumentError."""

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            [(key, _)] = Counter(key for key, _ in items).most_common(1)
            raise DocumentError(f"{where}: {key[:40]!r} occurs twice; every id and key must be unique")
        return values

    def no_number(text: str) -> Any:
        raise DocumentError(f"{where}: {text} is no JSON number")

    text = _decoded(content, where)
    try:
        _check_depth(text, where)
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_number)
    except json.JSONDecodeError as error:
        raise DocumentError(f"{where}: broken JSON: {error}") from error
    except ValueError as error:
        if isinstance(error, DocumentError):
            raise
        number = re.search("[0-9]{4301}", text)
        raise DocumentError(f"{where}: {_place(text, number.start() if number else 0)}: {error}") from error


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, None if it is empty; `where` begins the messages. Raises DocumentError."""
    try:
        # By events first: the composer recurses.
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise DocumentError(f"{where}: {_mark(event.start_mark)}: nested deeper than {DEEPEST}")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, where, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = f"{_mark(error.problem_mark)}: " if error.problem_mark else ""
        raise DocumentError(f"{where} is no YAML: {place}{error.problem}") from error
    except yaml.YAMLError as error:
        raise DocumentError(f"{where} is no YAML: {' '.join(str(error).split())[:200]}") from error
    except (ValueError, OverflowError, TypeError) as error:  # Of a date, a number, or a key that is a list.
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"{where} is no YAML: {error}") from error
    except (LookupError, AttributeError) as error:  # PyYAML's of `!!int ''`, `!!bool x`, `!!timestamp x`.
        raise DocumentError(f"{where} is no YAML: a value is not of the type that its tag says") from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # Twenty times as fast in C.
    """YAML with 4e-4 as a number, as YAML 1.2 and DVC read it, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merged = "tag:yaml.org,2002:merge"  # `<<` brings in keys that may stand here too.
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != merged)
        twice = [key for key, number in keys.items() if number > 1]
        if twice:
            problem = f"key {twice[0]!r} stands twice in one section"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _measure(node: Any, where: str, measured: dict[int, tuple[int, int]], inside: set[int]) -> tuple[int, int]:
    """Number of nodes and depth of a node with aliases expanded. Raises DocumentError at a limit or a circle."""
    if id(node) in measured:
        return measured[id(node)]
    place = f"{where}: {_mark(node.start_mark)}"
    if id(node) in inside:
        raise DocumentError(f"{place}: an alias contains itself")
    if isinstance(node, yaml.ScalarNode):
        digits = len(node.value) if node.tag == "tag:yaml.org,2002:int" else 0
        if digits > LONGEST_NUMBER:
            raise DocumentError(f"{place}: an integer has {digits} digits; at most {LONGEST_NUMBER} are allowed")
        return 1, 0
    pairs = isinstance(node, yaml.MappingNode)
    children = [part for pair in node.value for part in pair] if pairs else node.value
    inside.add(id(node))
    parts = [_measure(child, where, measured, inside) for child in children]
    inside.remove(id(node))
    number, depth = 1 + sum(part[0] for part in parts), 1 + max((part[1] for part in parts), default=0)
    if number > MOST_NODES:
        raise DocumentError(f"{place}: more than {MOST_NODES} values after its aliases are expanded")
    if depth > DEEPEST:
        raise DocumentError(f"{place}: nested deeper than {DEEPEST}")
    measured[id(node)] = number, depth
    return number, depth


def _check_depth(text: str, where: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    # Brackets inside of strings do not count; runs of one kind count at once.
    for part in re.finditer(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|\[+|\{+|\]+|\}+', text, re.DOTALL):
        first = part[0][0]
        if first in "[{":
            depth += len(part[0])
            if depth > DEEPEST:
                raise DocumentError(f"{where}: {_place(text, part.start())}: nested deeper than {DEEPEST}")
        elif first in "]}":
            depth -= len(part[0])


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where}: byte {error.start} is no UTF-8") from error


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f"line {line}, column {at - text.rfind(chr(10), 0, at)}"


def _mark(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def check_folder(folder: Path) -> None:
    """Raise DocumentError unless the folder holds regular files only, and links that stay inside of it.

    Whatever copies or hashes the folder would wait for a FIFO, and follow a link out of it.
    """
    root = folder.resolve()
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            shown = folder / path.relative_to(root)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise DocumentError(f"{shown} is a link out of {folder}; put the file itself there")
            if not (path.is_file() or path.is_dir()):
                raise DocumentError(f"{shown} is no regular file; remove it")
