"""Atomic files: the whole new content or the old one, and nothing beside."""

import json
import os
from pathlib import Path

import pytest

from model.storage.atomic import atomic_path, make_public, write_bytes, write_json, write_text


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (write_bytes, b"\x00\r\n", b"\x00\r\n"),
        (write_text, "grün\r\n", "grün\r\n".encode()),
        (write_json, {"b": [1], "a": None}, b'{\n "a": null,\n "b": [\n  1\n ]\n}\n'),
    ],
)
def test_the_file_holds_exactly_these_bytes_and_nothing_is_left_beside(tmp_path, write, value, expected):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write(path, value)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == {"loss": 1.0}


def test_the_bytes_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    events: list[str] = []
    replace = Path.replace

    def record_sync(descriptor: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{descriptor}").resolve().name)

    def record_replace(self: Path, target: Path) -> Path:
        events.append(f"replace {self.name} {target.name}")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_text(tmp_path / "file", "new")
    assert events == ["sync file.part", "replace file.part file", f"sync {tmp_path.name}"]


def test_a_private_file_gets_the_mode_of_any_other(tmp_path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            path = tmp_path / f"{mask}"
            path.touch(mode=0o600)
            path.chmod(0o600)
            make_public(path)
            assert path.stat().st_mode & 0o777 == 0o666 & ~mask
        finally:
            os.umask(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["18", "63"]
