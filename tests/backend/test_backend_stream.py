"""Large objects past the page cache: a write that fails leaves nothing that a later one could stumble over."""

import errno
import os
from pathlib import Path

import pytest

from modelkeep.backend import LocalBackend, syscalls
from modelkeep.backend.stream import BUFFER_BYTES
from modelkeep.errors import StorageError


def write(place: LocalBackend, key: str, data: bytes) -> None:
    with place.writer(key, size_hint=len(data)) as writer:
        for start in range(0, len(data), 1 << 20):
            writer.append(memoryview(data)[start : start + (1 << 20)])
        writer.commit()


def test_a_write_that_fails_does_not_let_two_share_a_buffer_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = LocalBackend(tmp_path)
    real, begun = syscalls.write, []

    def fails(descriptor: int, data: memoryview | bytes, offset: int) -> None:
        begun.append(offset)
        if len(data) == BUFFER_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, data, offset)

    data = os.urandom(12 * BUFFER_BYTES)
    monkeypatch.setattr(syscalls, "write", fails)
    with pytest.raises(StorageError, match="no space"):
        write(place, "lost", data)
    monkeypatch.setattr(syscalls, "write", real)
    for number in range(5):
        write(place, f"kept-{number}", data)
        assert place.read(f"kept-{number}") == data
    assert sorted(os.listdir(tmp_path)) == [f"kept-{number}" for number in range(5)]
