"""What holds for every test."""

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair; a slow one is no fault of the code.
settings.register_profile("modelkeep", deadline=None)
settings.load_profile("modelkeep")


@pytest.fixture(autouse=True)
def no_keep_of_the_user(monkeypatch):
    """The default keep is a matter of each test, never one that whoever runs the tests has set."""
    monkeypatch.delenv("MODELKEEP_KEEP", raising=False)
