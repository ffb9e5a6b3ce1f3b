"""Resume states: two are kept, and a damaged one is named and never used."""

import json
import os
import resource
from pathlib import Path

import pytest
import torch

from model.training import resume_states

CODE = "c" * 64


def _save(folder: Path, *steps: int, code: str = CODE) -> None:
    writer = resume_states.Writer(folder, code)
    for step in steps:
        writer.save({"weights": torch.arange(5.0) + step}, {"step": step, "history": [{"loss": 0.5}], "place": [0, 1]})
    writer.wait()


def _swept(folder: Path) -> Path | None:
    resume_states.sweep(folder, CODE, lambda _: None)
    return resume_states.newest(folder)


def test_the_last_two_are_kept_and_read_back(tmp_path):
    _save(tmp_path, 5, 900, 12_000_000)
    assert sorted(map(resume_states.step_of, tmp_path.iterdir())) == [900, 12_000_000]
    path = _swept(tmp_path)
    assert path is not None
    tensors, plain = resume_states.read(path)
    assert tensors["weights"].tolist() == [12_000_000 + i for i in range(5)]
    assert plain == {"step": 12_000_000, "history": [{"loss": 0.5}], "place": [0, 1]}


def test_a_copy_is_saved_not_what_the_next_update_makes_of_it(tmp_path):
    writer, weights = resume_states.Writer(tmp_path, CODE), torch.zeros(3_000_000)
    writer.save({"weights": weights}, {"step": 1})
    weights += 1
    writer.wait()
    path = _swept(tmp_path)
    assert path is not None
    assert not resume_states.read(path)[0]["weights"].any()


@pytest.mark.parametrize("damage", ["flip", "truncate", "step", "rename"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, damage):
    _save(tmp_path, 10, 20)
    last = resume_states.newest(tmp_path)
    assert last is not None
    contents = bytearray(last.read_bytes())
    if damage == "flip":
        contents[-3] ^= 1
    elif damage == "truncate":
        del contents[-1]
    elif damage == "step":
        contents = bytearray(bytes(contents).replace(rb"\"step\": 20", rb"\"step\": 40"))
    last.write_bytes(contents)
    if damage == "rename":
        last = last.rename(last.with_name(last.name.replace("state-0000020-", "state-0000040-")))
    (said,) = resume_states.sweep(tmp_path, CODE, lambda _: None)
    assert f"{last} is damaged" in said
    used = resume_states.newest(tmp_path)
    assert used is not None
    assert resume_states.step_of(used) == 10
    assert last.with_name(f"{last.name}.damaged").exists()


def test_every_single_flipped_bit_is_found(tmp_path):
    _save(tmp_path, 1)
    path = resume_states.newest(tmp_path)
    assert path is not None
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert not resume_states._intact(path)
    path.write_bytes(whole)
    assert resume_states._intact(path)


def test_one_of_other_code_or_without_its_candidates_is_not_used(tmp_path):
    _save(tmp_path, 10, 20)
    (said,) = resume_states.sweep(tmp_path, CODE, lambda step: "candidate 15 is missing" if step >= 15 else None)
    left = resume_states.newest(tmp_path)
    assert left is not None
    assert resume_states.step_of(left) == 10
    assert "is not used: candidate 15 is missing" in said
    assert "saved by other code: it starts anew" in resume_states.sweep(tmp_path, "d" * 64, lambda _: None)[0]
    assert resume_states.newest(tmp_path) is None


def test_it_is_on_the_disk_before_the_one_before_goes(tmp_path, monkeypatch):
    events: list[str] = []
    sync, unlink = os.fsync, Path.unlink

    def record_sync(descriptor: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{descriptor}").resolve().name[:13])
        sync(descriptor)

    def record_unlink(self: Path, missing_ok: bool = False) -> None:
        events.append(f"remove {self.name[:13]}")
        unlink(self, missing_ok)

    monkeypatch.setattr("os.fsync", record_sync)
    monkeypatch.setattr(Path, "unlink", record_unlink)
    _save(tmp_path, 1, 2, 3)
    assert events[-3:] == ["sync state-0000003", f"sync {tmp_path.name[:13]}", "remove state-0000001"]


def test_an_error_of_the_background_is_raised(tmp_path):
    folder = tmp_path / "gone"
    writer = resume_states.Writer(folder, CODE)
    writer.save({"weights": torch.zeros(1)}, {"step": 1})
    with pytest.raises(Exception, match="No such file"):
        writer.wait()


def test_a_value_that_is_no_number_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        resume_states.Writer(tmp_path, CODE).save({}, {"step": 1, "history": [{"loss": float("nan")}]})
    assert json.dumps(list(map(str, tmp_path.iterdir()))) == "[]"


def test_a_state_that_cannot_be_written_is_an_oserror(tmp_path):
    """As under a full disk; safetensors has an exception of its own."""
    writer, before = resume_states.Writer(tmp_path, CODE), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        writer.save({"weights": torch.zeros(1_000_000)}, {"step": 1})
        with pytest.raises(OSError, match=r"state\.part cannot be written: .*"):
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert resume_states.newest(tmp_path) is None
