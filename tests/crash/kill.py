"""A process is killed: what its calls have done stays, since the page cache survives.

Every prefix of the trace; of calls that were in flight any may have had its effect, and a write may have come up to
any edge of a page.
"""

import random
from collections.abc import Iterator

from .choices import Effort, orders, sample
from .disk import State, Tree
from .operations import PAGE, Action, Trace, Write


def states(trace: Trace, before: Tree, effort: Effort, seed: int) -> Iterator[tuple[int, State]]:
    """Yield what the folder may hold after each moment of the trace: ``(moment, state)``."""
    dice = random.Random(seed)
    tree, done = before.with_folders(trace.folders), 0
    for moment in trace.moments():
        while done < len(trace.operations) and trace.operations[done].ended <= moment:
            tree.apply(trace.operations[done].action)
            done += 1
        flight = [one for one in trace.operations[done:] if one.begun <= moment]
        for chosen in orders(range(len(flight)), dice):
            for actions in _torn([flight[index].action for index in chosen], effort, dice):
                crashed = tree.copy() if actions else tree
                for action in actions:
                    crashed.apply(action)
                yield moment, crashed.state()


def _torn(actions: list[Action], effort: Effort, dice: random.Random) -> Iterator[list[Action]]:
    """The calls as they are, then with the last write among them cut off at edges of pages."""
    yield actions
    last = next((index for index in reversed(range(len(actions))) if isinstance(actions[index], Write)), None)
    if last is None:
        return
    write = actions[last]
    assert isinstance(write, Write)
    for edge in sample(range(write.offset // PAGE + 1, -(-write.end // PAGE)), effort.tears, dice):
        cut = Write(write.inode, write.offset, write.data[: edge * PAGE - write.offset])
        yield [*actions[:last], cut, *actions[last + 1 :]]
