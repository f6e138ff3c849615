"""What opening a place says of a ``keep.json`` that is not as it should be."""

import re
from pathlib import Path

import numpy as np
import pytest

from modelkeep.backend import Backend, LocalBackend, MemoryBackend
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.snapshot.canonical import seal
from modelkeep.store import Store


@pytest.fixture
def keep(local_store: Store, tmp_path: Path) -> Path:
    local_store.save({"w": np.ones(3)})
    local_store.run("cnn").start_attempt({})
    return tmp_path / "keep"


def reopen(keep: Path, data: bytes) -> Store:
    path = keep / "keep.json"
    path.chmod(0o644)
    path.write_bytes(data)
    return Store.open(LocalBackend(keep))


@pytest.mark.parametrize(
    "data",
    [
        b'{"modelkeep": 3, "new-style": true}\n',
        b'{"digest": "sha3:00", "modelkeep": 2}',
        seal({"modelkeep": 2, "id": "x"}),
        seal({"modelkeep": "two"}),
    ],
)
def test_a_newer_number_is_a_newer_format_however_the_rest_is_spelled(keep: Path, data: bytes) -> None:
    with pytest.raises(UnknownFormat, match="upgrade"):
        reopen(keep, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"[1]",
        b"{}",
        b'{"modelkeep": 1}',
        b"\xff",
        seal({"modelkeep": 1}),
        seal({"modelkeep": 1, "id": 3}),
    ],
)
def test_what_is_no_keep_json_is_damage_with_the_place_and_a_way_out(keep: Path, data: bytes) -> None:
    with pytest.raises(Damaged, match=rf"{re.escape(keep.as_uri())} .*restore keep\.json from a copy") as caught:
        reopen(keep, data)
    assert caught.value.key == "keep.json"


def test_a_flipped_bit_in_the_number_is_damage_and_no_newer_format(keep: Path) -> None:
    data = (keep / "keep.json").read_bytes()
    for digit in (b"3", b"5", b"9"):
        with pytest.raises(Damaged):
            reopen(keep, data.replace(b'"modelkeep":1', b'"modelkeep":' + digit))
    assert reopen(keep, data).id


@pytest.mark.parametrize("create", [True, False])
def test_a_keep_that_lost_its_keep_json_is_told_from_a_folder_of_other_things(keep: Path, create: bool) -> None:
    (keep / "keep.json").unlink()
    with pytest.raises(Damaged, match=r"lost its keep\.json; restore"):
        Store.open(LocalBackend(keep), create=create)
    assert not (keep / "keep.json").exists()


def test_runs_of_another_program_are_no_keep(backend: Backend) -> None:
    backend.create("runs/today/events.out", b"of tensorboard")
    with pytest.raises(UnknownFormat, match="not a keep"):
        Store.open(backend)


def test_a_keep_in_memory_that_lost_its_keep_json_is_told_too() -> None:
    backend = MemoryBackend("lost")
    Store.open(backend).run("cnn").start_attempt({})
    backend.delete("keep.json")
    with pytest.raises(Damaged, match="looks like a keep"):
        Store.open(backend)
