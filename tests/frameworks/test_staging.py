"""Memory that is used again for copies."""

import os

from modelkeep.frameworks.staging import Staging


def test_memory_is_given_out_again_when_its_last_view_is_gone():
    staging = Staging()
    first = staging.take(1 << 20)
    first.fill(3)
    part = first[5:9].view("i4")
    other = staging.take(1 << 20)
    assert not other.any(), "two have the same memory"
    del first
    assert part.tolist() == [0x03030303]
    del part
    assert staging.take(1 << 20).all(), "it is used again"


def test_a_forked_child_has_memory_of_its_own():
    """A data loader that forks while a save is under way must not write into what is being saved."""
    memory = Staging().take(1 << 16)
    child = os.fork()
    if child == 0:
        memory.fill(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not memory.any()
