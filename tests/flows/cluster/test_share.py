"""Two threads of a worker that share what is left: the end of a run, and the look each minute."""

import threading
from pathlib import Path

import pytest

from flows.cluster import settings, share


def test_a_run_is_shared_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    monkeypatch.setattr(settings, "joined", lambda: True)
    begun, go_on, shared = threading.Event(), threading.Event(), []

    def slow(run: str) -> None:
        shared.append(run)
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(share, "share", slow)
    share.mark("a")
    first, waiting = (threading.Thread(target=lambda: list(share.try_all())) for _ in range(2))
    first.start()
    assert begun.wait(10)
    assert list(share.try_all(wait=False)) == []
    waiting.start()
    go_on.set()
    for thread in (first, waiting):
        thread.join(10)
    assert shared == ["a"]
    assert list(share.try_all(wait=False)) == []
