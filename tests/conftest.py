"""What holds for every test."""

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair; a slow one is no fault of the code.
settings.register_profile("modelkeep", deadline=None)
settings.load_profile("modelkeep")


UNDER_WAY = {"block", "crash", "faults", "simulation"}
"""Folders of tests that are being written (docs/roadmap.md): collected only where the command line names them."""


def pytest_ignore_collect(collection_path, config):
    """Doctests are for `src`: here only tests are collected, not the cases and programs that lie beside them."""
    if collection_path.name in UNDER_WAY and not any(collection_path.name in argument for argument in config.args):
        return True
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


@pytest.fixture(autouse=True)
def no_keep_of_the_user(monkeypatch):
    """The default keep is a matter of each test, never one that whoever runs the tests has set."""
    monkeypatch.delenv("MODELKEEP_KEEP", raising=False)
