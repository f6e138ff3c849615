"""Incremental save: 99 % of the bytes are frozen, as in transfer learning; only what changed is written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import contest, scratch, states
from bench.contest import Contender
from bench.report import Report, compared
from bench.settings import Settings
from bench.worker import Worker

SHARE = 100
"""One array in so many is trained."""


class Frozen:
    """A run with a state of which 1 % of the bytes change, and checkpoints of it that keep the last three."""

    def __init__(self, size: int, place: str) -> None:
        import modelkeep as mk

        frozen = {f"frozen/{name}": array for name, array in states.make(size - size // SHARE, 198).items()}
        head = {f"head/{name}": array for name, array in states.make(size // SHARE, 2, seed=1).items()}
        self._changed = states.nbytes(head)
        self.build(frozen, head)
        self._place = Path(place)
        self._run = mk.open(place).run("bench", seed=0, capture=False)
        self._number = 0
        for _ in range(3):  # what did not change in two saves is known from the third on
            self._save()

    def build(self, frozen: states.Arrays, head: states.Arrays) -> None:
        """Make the framework's own arrays."""
        raise NotImplementedError

    def train(self, everything: bool) -> None:
        """Change the head, or everything."""
        raise NotImplementedError

    def state(self) -> Any:
        """The state for modelkeep."""
        raise NotImplementedError

    def save(self, what: str) -> float:
        """Change the trained part (``"changed"``) or everything (``"all"``), save, and return the seconds.

        A save of everything is followed by two that do not count, so that what is frozen is known as that again.
        """
        self.train(what == "all")
        scratch.settle()
        seconds = self._save()
        if what == "all":
            for _ in range(2):
                self.train(False)
                self._save()
        return seconds

    def written(self) -> dict[str, int]:
        """Bytes that change, and bytes that one more save of them adds to the keep."""
        self._run.retain = self._retain(10)
        before = self._size()
        self.train(False)
        self._save()
        return {"changed": self._changed, "written": self._size() - before}

    def _save(self) -> float:
        self._number += 1
        started = perf_counter()
        self._run.save(self.state(), step=self._number, epoch=0, wait=True)
        return perf_counter() - started

    def _retain(self, last: int) -> Any:
        import modelkeep as mk

        return mk.retain(last=last)

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._place.rglob("*") if path.is_file())


class Numpy(Frozen):
    """Arrays that anybody may have written to, as torch's: they are hashed."""

    def build(self, frozen: states.Arrays, head: states.Arrays) -> None:
        self._frozen, self._head = frozen, head
        for array in (frozen | head).values():
            array.setflags(write=False)  # the copy that torch's door makes is not what is measured here

    def train(self, everything: bool) -> None:
        arrays = self._frozen | self._head if everything else self._head
        for array in arrays.values():
            array.setflags(write=True)
        states.change(arrays)
        for array in arrays.values():
            array.setflags(write=False)

    def state(self) -> Any:
        return {**self._frozen, **self._head}


class Tensorflow(Frozen):
    """Variables: those whose buffers are as they were need not be read."""

    def build(self, frozen: states.Arrays, head: states.Arrays) -> None:
        import tensorflow as tf

        self._frozen = {name: tf.Variable(array) for name, array in frozen.items()}
        self._head = {name: tf.Variable(array) for name, array in head.items()}

    def train(self, everything: bool) -> None:
        for variable in (self._frozen | self._head if everything else self._head).values():
            variable.assign(variable * 0.999)

    def state(self) -> Any:
        from modelkeep.frameworks import tensorflow

        return tensorflow.state_of({**self._frozen, **self._head})


class Jax(Frozen):
    """Arrays that the training is not given back: they are the objects that they were."""

    def build(self, frozen: states.Arrays, head: states.Arrays) -> None:
        import jax

        self._frozen = {name: jax.numpy.array(array) for name, array in frozen.items()}
        self._head = {name: jax.numpy.array(array) for name, array in head.items()}
        self._update: Callable[[Any], Any] = jax.jit(
            lambda params: {name: value * 0.999 for name, value in params.items()}, donate_argnums=0
        )

    def train(self, everything: bool) -> None:
        import jax

        if everything:
            self._frozen = self._update(self._frozen)
        self._head = self._update(self._head)
        jax.block_until_ready((self._frozen, self._head))

    def state(self) -> Any:
        from modelkeep.frameworks import jax

        return jax.state_of({**self._frozen, **self._head})


def run(settings: Settings) -> list[Report]:
    """The tables of a save of what changed beside a save of everything."""
    return [_table(name, settings) for name in ("Tensorflow", "Jax", "Numpy")]


def _table(name: str, settings: Settings) -> Report:
    with scratch.folder() as root, Worker(f"bench.incremental.{name}", size=settings.size, place=str(root)) as worker:
        wanted = {"everything changed": "all", "1 % changed": "changed"}
        contenders = [Contender(way, "ours", partial(worker.call, "save", what)) for way, what in wanted.items()]
        whole, part = contest.hold(contenders, settings.rounds, told=settings.told)
        found = worker.call("written")
    table = compared(f"a checkpoint of {settings.size >> 20} MiB, 99 % of it frozen, {name}", [whole, part], whole)
    table.remarks.append(f"{1 / part.ratio(whole):.1f} times faster than a full save")
    extra = found["written"] - found["changed"]
    table.remarks.append(
        f"{found['written']:,} bytes written for {found['changed']:,} changed: "
        f"{found['written'] / found['changed']:.3f} x, {extra:,} bytes more (the record among them)"
    )
    return table
