"""The device that ARC_DEVICE names."""

import pytest

from tasks.common.stage import StageError
from tasks.machine import device


@pytest.mark.parametrize("name", ["meta", "mps", "abc", "cuda:x", "xla", "\x1b", "9" * 5000])
def test_another_device_is_refused_and_the_allowed_ones_are_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ARC_DEVICE", name)
    with pytest.raises(StageError, match=r"ARC_DEVICE is .*; allowed are 'cpu', 'cuda' and 'cuda:N'"):
        device.choose()
