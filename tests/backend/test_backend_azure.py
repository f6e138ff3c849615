"""A keep in Azure keeps every promise of a backend, on Microsoft's own emulator."""

from pathlib import Path

import numpy as np
import pytest

import modelkeep as mk
from modelkeep.backend import Backend, open_backend
from modelkeep.errors import AlreadyExists, StorageError
from modelkeep.testing.backend_suite import BackendSuite

from ..object_stores import Proxy, at


class TestAzurite(BackendSuite):
    @pytest.fixture
    def backend(self, azure_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Backend:
        return open_backend(at(azure_server, monkeypatch, "az"))

    def reopen(self, backend: Backend) -> Backend:
        return open_backend(backend.url)


@pytest.fixture
def container(azure_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    return at(azure_server, monkeypatch, "az")


@pytest.mark.parametrize("staged", [False, True])
def test_a_run_is_kept_in_a_container_and_goes_on(container: str, tmp_path: Path, staged: bool) -> None:
    keep = mk.open(container, staging=tmp_path / "staging" if staged else None)
    with keep.run("walk", seed=1) as run:
        for step in range(1, 6):
            run.save({"at": np.full(3, step)}, step=step, epoch=0, wait=True)
    keep.flush()
    again = mk.open(container, create=False)
    assert np.array_equal(again.load_state("run:walk@last")["at"], np.full(3, 5))
    assert again.verify().ok
    assert not again.gc(dry_run=False, grace=0).removed


def test_an_answer_that_is_lost_is_no_conflict(azure_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(azure_server["AZURITE_BLOB_STORAGE_URL"]) as proxy:
        backend = open_backend(at({**azure_server, "AZURITE_BLOB_STORAGE_URL": proxy.url}, monkeypatch, "az"))
        backend.create("before", b"x")
        lost = proxy.lose_one_answer("a")
        backend.create("a", b"mine")
        assert lost
        assert backend.read("a") == b"mine"
        with pytest.raises(AlreadyExists):
            open_backend(backend.url).create("a", b"mine")
        proxy.shutdown()


def test_a_missing_container_and_wrong_credentials_are_told_apart(
    container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="there is no bucket az://none; create it, or name another one"):
        mk.open("az://none/keep")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "bm90IHRoZSBrZXk=")
    with pytest.raises(StorageError, match="the store refused the credentials"):
        mk.open(container)
