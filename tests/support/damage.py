"""Ways to damage the bytes of a file."""

from collections.abc import Callable


def _flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) * 3 // 4],
    "flipped bit in the middle": lambda data: _flip(data, len(data) // 2),
    "flipped bit at the end": lambda data: _flip(data, max(0, len(data) - 9)),
}
