"""`read_ahead`: many records side by side where a store is waited for, one alone where one is wanted."""

import threading
from itertools import islice

import pytest

from modelkeep.backend import MemoryBackend
from modelkeep.errors import NotFound
from modelkeep.store.documents import read_ahead


class Slow(MemoryBackend):
    """A store in which reads wait for one another: each goes on once so many are under way, or a moment is over."""

    requests = 4

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.under_way, self.most, self.reads = 0, 0, 0
        self._changed = threading.Condition()

    def read(self, key: str, *, limit: int | None = None) -> bytes:
        with self._changed:
            self.reads += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most == self.requests, timeout=0.2)
        try:
            return super().read(key, limit=limit)
        finally:
            with self._changed:
                self.under_way -= 1


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Slow:
    backend = Slow(request.node.name)
    for number in range(20):
        if number != 11:
            backend.create(f"a/{number}", str(number).encode())
    return backend


def test_all_come_in_order_side_by_side_and_errors_where_they_belong(store: Slow) -> None:
    seen = []
    for number, read in read_ahead(store, range(20), lambda number: store.read(f"a/{number}")):
        if number == 11:
            with pytest.raises(NotFound):
                read()
        else:
            seen.append(int(read()))
    assert seen == [number for number in range(20) if number != 11]
    assert store.most == 4


def test_who_wants_the_first_asks_for_no_other(store: Slow) -> None:
    ((_, read),) = islice(read_ahead(store, range(20), lambda number: store.read(f"a/{number}")), 1)
    assert read() == b"0"
    assert store.reads == 1


def test_where_nothing_is_waited_for_each_is_read_when_it_is_asked_for() -> None:
    backend = MemoryBackend("read-ahead-local")
    read: list[int] = []
    found = list(read_ahead(backend, range(3), read.append))
    assert read == []
    found[1][1]()
    assert read == [1]
