"""A keep in memory keeps every promise of a backend."""

from itertools import count

import pytest

from modelkeep.backend import Backend, MemoryBackend, open_backend
from modelkeep.errors import NotFound
from modelkeep.testing.backend_suite import BackendSuite

_NAMES = count()


class TestMemory(BackendSuite):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend(f"suite-{next(_NAMES)}")

    def reopen(self, backend: Backend) -> Backend:
        return open_backend(backend.url)


def test_places_of_other_names_share_nothing() -> None:
    one, other = MemoryBackend(f"suite-{next(_NAMES)}"), MemoryBackend(f"suite-{next(_NAMES)}")
    one.create("a", b"x")
    assert list(other.list("")) == []


def test_a_place_that_is_not_there_is_not_made_by_looking() -> None:
    name = f"suite-{next(_NAMES)}"
    with pytest.raises(NotFound, match=name):
        open_backend(f"memory://{name}", create=False)
    with pytest.raises(NotFound, match=name):
        open_backend(f"memory://{name}", create=False)


def test_what_the_caller_does_with_its_buffer_later_changes_nothing() -> None:
    place = MemoryBackend(f"suite-{next(_NAMES)}")
    mine = bytearray(b"12345")
    with place.writer("a") as writer:
        writer.append(memoryview(mine))
        mine[:] = b"xxxxx"
        writer.commit()
    assert place.read("a") == b"12345"
