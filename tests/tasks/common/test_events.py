import json
import os
from pathlib import Path

import pytest

from tasks.common import events
from tasks.common.events import DeviceTaken, Event, Failed, Progress, Reader, Resumed

ALL: list[Event] = [
    DeviceTaken(device="cuda:1"),
    Resumed(step=20, total=40),
    Progress(step=40, total=40, loss=1.25, accuracy=0.5),
    Failed(reason="the disk is full", message="two\nlines"),
]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "events.jsonl"))
    return tmp_path / "events.jsonl"


def test_what_is_emitted_is_read_once_and_in_order(path: Path) -> None:
    reader = Reader(path)
    assert list(reader.new()) == []
    events.emit(ALL[0])
    assert list(reader.new()) == ALL[:1]
    for event in ALL[1:]:
        events.emit(event)
    assert list(reader.new()) == ALL[1:]
    assert list(reader.new()) == []
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [event.kind for event in ALL]


def test_an_unfinished_last_line_is_read_when_it_is_finished(path: Path) -> None:
    line = ALL[1].model_dump_json() + "\n"
    reader = Reader(path)
    path.write_text(ALL[0].model_dump_json() + "\n" + line[:10])
    assert list(reader.new()) == ALL[:1]
    path.write_text(ALL[0].model_dump_json() + "\n" + line)
    assert list(reader.new()) == ALL[1:2]


def test_invalid_lines_are_skipped(path: Path) -> None:
    path.write_text(f'{{"kind": "unknown"}}\n{{"kind": "resu\n{ALL[0].model_dump_json()}\n')
    assert list(Reader(path).new()) == ALL[:1]


def test_nothing_is_written_without_a_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(events.VARIABLE, raising=False)
    events.emit(ALL[0])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_does_not_fail_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "missing" / "events.jsonl"))
    events.emit(ALL[0])
    assert "could not be written" in capsys.readouterr().err


def test_the_reason_is_that_of_the_first_cause() -> None:
    try:
        try:
            raise OSError(28, os.strerror(28))
        except OSError as error:
            raise ValueError("the table cannot be written") from error
    except ValueError as error:
        assert events.reason_of(error) == "the disk is full"
    assert events.reason_of(ValueError("no such edition")) == "other error"
