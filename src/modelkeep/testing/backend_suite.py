"""The promises of `modelkeep.backend.Backend` as tests to inherit.

Write one class for a backend, with one fixture, and run it with pytest::

    class TestMyBackend(BackendSuite):
        @pytest.fixture
        def backend(self, tmp_path):
            return MyBackend(tmp_path)

        def reopen(self, backend):
            return MyBackend(backend.folder)
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from modelkeep.backend.base import Backend
from modelkeep.errors import AlreadyExists, Damaged, InvalidName, NotFound

WINNERS = 20
"""Rounds of a race."""


class BackendSuite:
    """What every backend promises. Inherit it, give the fixture `backend`: a new empty place for each test."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("override the fixture `backend`: an empty place of the kind that is tested")

    def reopen(self, backend: Backend) -> Backend:
        """Another handle of the same place; by default the same object."""
        return backend

    # Reading what was created

    def test_what_was_created_is_read_back_by_another_handle(self, backend: Backend) -> None:
        backend.create("a/b", b"hello")
        assert self.reopen(backend).read("a/b") == b"hello"

    def test_a_range_is_read_without_the_rest(self, backend: Backend) -> None:
        backend.create("a", b"0123456789")
        assert backend.read("a", 2, 5) == b"234"
        assert backend.read("a", 7) == b"789"
        assert backend.read("a", 10) == b""

    def test_a_range_beyond_the_end_is_damage_that_names_the_key(self, backend: Backend) -> None:
        backend.create("a/short", b"0123")
        for start, end in [(0, 5), (5, None), (5, 6)]:
            with pytest.raises(Damaged, match="a/short") as caught:
                backend.read("a/short", start, end)
            assert caught.value.key == "a/short"

    def test_an_empty_object_is_an_object(self, backend: Backend) -> None:
        backend.create("empty", b"")
        assert backend.read("empty") == b""
        assert backend.size("empty") == 0

    def test_read_into_fills_the_whole_buffer(self, backend: Backend) -> None:
        backend.create("a", bytes(range(100)))
        buffer = bytearray(50)
        backend.read_into("a", 25, memoryview(buffer))
        assert bytes(buffer) == bytes(range(25, 75))

    def test_read_into_past_the_end_is_damage_that_names_the_key(self, backend: Backend) -> None:
        backend.create("a", b"0123")
        with pytest.raises(Damaged, match="a") as caught:
            backend.read_into("a", 2, memoryview(bytearray(3)))
        assert caught.value.key == "a"

    def test_what_is_absent_is_not_found_by_name(self, backend: Backend) -> None:
        with pytest.raises(NotFound, match="a/missing"):
            backend.read("a/missing")
        with pytest.raises(NotFound, match="a/missing"):
            backend.size("a/missing")
        with pytest.raises(NotFound, match="a/missing"):
            backend.read_into("a/missing", 0, memoryview(bytearray(1)))

    # Creating

    def test_an_object_that_is_there_is_never_changed(self, backend: Backend) -> None:
        backend.create("a", b"first")
        with pytest.raises(AlreadyExists, match="a"):
            backend.create("a", b"second")
        assert backend.read("a") == b"first"

    def test_of_many_who_create_one_key_exactly_one_wins(self, backend: Backend) -> None:
        others = [self.reopen(backend) for _ in range(4)]
        for number in range(WINNERS):
            barrier = threading.Barrier(len(others))

            def race(index: int, key: str = f"race/{number}", barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                try:
                    others[index].create(key, b"%d" % index)
                except AlreadyExists:
                    return False
                return True

            with ThreadPoolExecutor(len(others)) as pool:
                won = list(pool.map(race, range(len(others))))
            assert won.count(True) == 1
            assert backend.read(f"race/{number}") == b"%d" % won.index(True)

    def test_of_many_writers_of_one_key_exactly_one_commits(self, backend: Backend) -> None:
        def race(index: int) -> bool:
            with self.reopen(backend).writer("shards/a") as writer:
                writer.append(memoryview(b"%d" % index * 1000))
                barrier.wait()
                try:
                    writer.commit()
                except AlreadyExists:
                    return False
            return True

        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(race, range(4)))
        assert won.count(True) == 1
        assert backend.read("shards/a") == b"%d" % won.index(True) * 1000
        assert [entry.key for entry in backend.list("")] == ["shards/a"]

    def test_a_deleted_key_is_gone_and_deleting_again_is_fine(self, backend: Backend) -> None:
        backend.create("a/b", b"x")
        backend.delete("a/b")
        backend.delete("a/b")
        with pytest.raises(NotFound):
            backend.read("a/b")

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.hidden", "a\\b", "a\x00b", "a b", "é", "a\n", "-a"]
    )
    def test_keys_that_lead_elsewhere_are_refused(self, backend: Backend, key: str) -> None:
        with pytest.raises(InvalidName):
            backend.create(key, b"x")
        with pytest.raises(InvalidName):
            backend.read(key)
        with pytest.raises(InvalidName):
            backend.delete(key)

    def test_a_segment_of_201_characters_is_a_key_and_a_longer_one_is_none(self, backend: Backend) -> None:
        backend.create("a/" + "x" * 201, b"long")
        assert backend.read("a/" + "x" * 201) == b"long"
        with pytest.raises(InvalidName):
            backend.create("a/" + "x" * 202, b"x")

    # Writing a large object

    def test_a_writer_puts_together_what_is_appended_and_what_was_reserved(self, backend: Backend) -> None:
        with backend.writer("big", size_hint=16) as writer:
            writer.reserve(4)
            assert writer.append(memoryview(b"body")) == 4
            assert writer.append(memoryview(bytearray(b"tail"))) == 8
            writer.write_at(0, b"head")
            writer.commit()
        assert backend.read("big") == b"headbodytail"

    def test_nobody_sees_an_object_before_its_commit(self, backend: Backend) -> None:
        with backend.writer("a/big") as writer:
            writer.append(memoryview(b"body"))
            assert list(self.reopen(backend).list("")) == []
            with pytest.raises(NotFound):
                backend.read("a/big")
            writer.commit()
        assert [entry.key for entry in backend.list("")] == ["a/big"]

    def test_an_aborted_object_leaves_nothing(self, backend: Backend) -> None:
        writer = backend.writer("a/big")
        writer.append(memoryview(b"body"))
        writer.abort()
        writer.abort()
        assert list(backend.list("")) == []
        assert backend.clean("", backend.now() + 3600) == 0

    def test_a_large_object_is_what_was_appended_however_it_was_cut(self, backend: Backend) -> None:
        """Large objects may go other ways than small ones: in long runs, aligned, from several threads."""
        whole = bytes(range(251)) * 80_000
        for reserved, cuts in ((4096, (5_000_000,)), (0, (1, 9_000_001, 9_000_002)), (100, (19_999_999,))):
            with backend.writer(f"large-{reserved}", size_hint=len(whole) if reserved else 0) as writer:
                if reserved:
                    writer.reserve(reserved)
                for start, stop in pairwise((0, *cuts, len(whole))):
                    part = bytearray(whole[start:stop])
                    assert writer.append(memoryview(part)) == reserved + start
                    part[:] = bytes(len(part))  # what was appended may be changed
                writer.write_at(0, b"h" * reserved)
                writer.commit()
            assert self.reopen(backend).read(f"large-{reserved}") == b"h" * reserved + whole

    def test_what_somebody_else_created_can_be_made_durable(self, backend: Backend) -> None:
        backend.create("a/b", b"x")
        other = self.reopen(backend)
        other.settle("a/b")
        assert other.read("a/b") == b"x"
        with pytest.raises(NotFound):
            other.settle("a/c")

    def test_an_exception_inside_a_writer_aborts_it(self, backend: Backend) -> None:
        with pytest.raises(KeyboardInterrupt), backend.writer("a/big") as writer:
            writer.append(memoryview(b"body"))
            raise KeyboardInterrupt
        assert list(backend.list("")) == []

    def test_abort_after_commit_keeps_the_object(self, backend: Backend) -> None:
        with backend.writer("a/big") as writer:
            writer.append(memoryview(b"body"))
            writer.commit()
            writer.abort()
        assert backend.read("a/big") == b"body"

    def test_a_writer_never_replaces_an_object(self, backend: Backend) -> None:
        with backend.writer("big") as writer:
            writer.append(memoryview(b"late"))
            backend.create("big", b"first")
            with pytest.raises(AlreadyExists):
                writer.commit()
        assert backend.read("big") == b"first"
        assert [entry.key for entry in backend.list("")] == ["big"]

    # Listing

    def test_a_listing_is_recursive_and_ascends_by_key(self, backend: Backend) -> None:
        keys = ["b", "a/z", "a/b/c", "a-b", "a.b", "a0", "ab/c", "a/b.json"]
        for key in keys:
            backend.create(key, key.encode())
        assert [entry.key for entry in backend.list("")] == sorted(keys)
        assert [entry.key for entry in backend.list("a")] == ["a/b.json", "a/b/c", "a/z"]
        assert [entry.key for entry in backend.list("a", limit=2)] == ["a/b.json", "a/b/c"]
        assert list(backend.list("nothing")) == []

    def test_a_listing_tells_size_and_time_by_the_stores_clock(self, backend: Backend) -> None:
        before = backend.now()
        backend.create("a/b", b"12345")
        (entry,) = backend.list("a")
        assert entry.size == 5
        assert before - 2 <= entry.modified <= backend.now() + 2  # file systems date with coarser clocks

    def test_the_stores_clock_goes_forward_while_objects_come_to_be(self, backend: Backend) -> None:
        """It may go back where the machine's clock is set; nothing but the age of garbage depends on it."""
        seen = []
        for number in range(20):
            seen.append(backend.now())
            backend.create(f"a/{number:02d}", b"x")
        assert all(earlier <= later + 2 for earlier, later in pairwise(seen))
        dates = [entry.modified for entry in backend.list("a")]
        assert all(earlier <= later + 2 for earlier, later in pairwise(dates))

    def test_objects_may_be_deleted_while_they_are_listed(self, backend: Backend) -> None:
        for number in range(20):
            backend.create(f"a/{number:02d}", b"x")
        for entry in backend.list("a"):
            backend.delete(entry.key)
        assert list(backend.list("")) == []

    def test_a_prefix_is_a_folder_and_not_a_part_of_a_name(self, backend: Backend) -> None:
        backend.create("run/a", b"x")
        backend.create("runs/a", b"x")
        assert [entry.key for entry in backend.list("run")] == ["run/a"]

    def test_folders_are_named_without_what_lies_in_them(self, backend: Backend) -> None:
        for key in ["runs/b/attempts/1/start", "runs/a/lock", "runs/a-b/x", "runs/file", "other/x"]:
            backend.create(key, b"x")
        assert list(backend.folders("runs")) == ["a", "a-b", "b"]
        assert list(backend.folders("")) == ["other", "runs"]
        assert list(backend.folders("nothing")) == []
        assert list(backend.folders("runs/file")) == []

    # Locks

    def test_a_lock_is_re_entrant_in_one_process(self, backend: Backend) -> None:
        with backend.lock("runs/a/lock"), self.reopen(backend).lock("runs/a/lock"), backend.lock("runs/b/lock"):
            backend.create("a", b"x")
        with backend.lock("runs/a/lock"):
            pass

    def test_a_lock_is_freed_by_an_exception(self, backend: Backend) -> None:
        with pytest.raises(KeyboardInterrupt), backend.lock("runs/a/lock"):
            raise KeyboardInterrupt
        with backend.lock("runs/a/lock"):
            pass

    # Cleaning

    def test_cleaning_leaves_every_object(self, backend: Backend) -> None:
        backend.create("a/b", b"x")
        backend.clean("", backend.now() + 3600)
        backend.clean("nothing", backend.now() + 3600)
        assert backend.read("a/b") == b"x"

    def test_cleaning_elsewhere_or_of_older_things_leaves_what_is_under_way(self, backend: Backend) -> None:
        with backend.writer("a/b") as writer:
            writer.append(memoryview(b"body"))
            assert self.reopen(backend).clean("other", backend.now() + 3600) == 0
            assert self.reopen(backend).clean("", backend.now() - 3600) == 0
            writer.commit()
        assert backend.read("a/b") == b"body"
