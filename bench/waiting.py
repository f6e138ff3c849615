"""What training waits for: the call of an asynchronous save, and what it adds to its step and the next three."""

import mmap
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bench import states
from bench.report import Report
from bench.settings import Settings
from bench.worker import Worker, WorkerDied

STEPS_AFTER = 3
_STEPS_BEFORE = 5
_ARRAYS = 200
_HELD = "views held, nothing written"


class Trainer:
    """A training whose step writes to every array, and the asynchronous saves of it."""

    copies_on_write = True
    """Whether the framework makes a copy rather than write to what somebody holds."""

    def __init__(self, size: int) -> None:
        import modelkeep as mk

        self._folder = tempfile.TemporaryDirectory(prefix="modelkeep-bench-")
        self._root = Path(self._folder.name)
        self._run = mk.open(self._root / "keep").run("bench", seed=0, capture=False)
        self._number = 0
        self._arrays = states.make(size, _ARRAYS)
        self._copies = {name: np.ones_like(array) for name, array in self._arrays.items()}
        self.build(self._arrays)

    def build(self, arrays: states.Arrays) -> None:
        """Make the framework's own arrays."""
        raise NotImplementedError

    def train(self) -> None:
        """One step; it is done on return."""
        raise NotImplementedError

    def state(self) -> Any:
        """The state for modelkeep."""
        raise NotImplementedError

    def views(self) -> list[Any]:
        """Each array as numpy: the least that a save without a copy can do."""
        raise NotImplementedError

    def peers(self) -> dict[str, tuple[Callable[[Path], Any], Callable[[Any], None]]]:
        """Name -> (start a save to a path, wait for what that returned)."""
        return {}

    def ways(self) -> list[str]:
        """The names of the savers, and of the limit."""
        return ["modelkeep", *([_HELD] if self.copies_on_write else []), *self.peers()]

    def measure(self, way: str) -> dict[str, float]:
        """Seconds: of the ``call``, ``added`` to its step and the next three, of a warm memory ``copy`` of the bytes,
        of one into ``fresh`` memory, of the bare ``views``, and of the whole ``save`` until it is done.
        """
        plain = []
        for _ in range(_STEPS_BEFORE):
            started = perf_counter()
            self.train()
            plain.append(perf_counter() - started)
        started = perf_counter()
        wait = self._begin(way)
        called = perf_counter() - started
        for _ in range(1 + STEPS_AFTER):
            self.train()
        total = perf_counter() - started
        wait()
        saved = perf_counter() - started
        added = total - (1 + STEPS_AFTER) * median(plain)
        self.train()
        started = perf_counter()
        held = self.views()
        views = perf_counter() - started
        del held
        return {
            "call": called,
            "added": added,
            "copy": self._copy(),
            "fresh": self._fresh_copy(),
            "views": views,
            "save": saved,
        }

    def _begin(self, way: str) -> Callable[[], None]:
        self._number += 1
        if way == "modelkeep":
            self._run.wait_for_room()
            self._run.save(self.state(), step=self._number, epoch=0)
            return self._run.wait
        if way == _HELD:
            held = self.views()
            return held.clear
        begin, wait = self.peers()[way]
        handle = begin(self._root / f"{way.replace(' ', '-')}-{self._number}")
        return lambda: wait(handle)

    def _copy(self) -> float:
        seconds = []
        for _ in range(3):
            started = perf_counter()
            for name, array in self._arrays.items():
                np.copyto(self._copies[name], array)
            seconds.append(perf_counter() - started)
        return median(seconds)

    def _fresh_copy(self) -> float:
        """Into memory that the process has not touched: what a first save cannot do without."""
        with mmap.mmap(-1, sum(array.nbytes for array in self._arrays.values()), access=mmap.ACCESS_COPY) as memory:
            started, at = perf_counter(), 0
            for array in self._arrays.values():
                np.frombuffer(memory, array.dtype, array.size, at)[:] = array.reshape(-1)
                at += array.nbytes
            return perf_counter() - started


class Tensorflow(Trainer):
    """Variables, changed in a ``tf.function``."""

    def build(self, arrays: states.Arrays) -> None:
        import tensorflow as tf

        self._variables = {name: tf.Variable(array) for name, array in arrays.items()}
        variables = list(self._variables.values())

        @tf.function
        def step() -> None:
            for variable in variables:
                variable.assign_add(tf.ones_like(variable) * 1e-3)

        self._step = step
        self._last = variables[-1]

    def train(self) -> None:
        self._step()

    def state(self) -> Any:
        from modelkeep.frameworks import tensorflow

        return tensorflow.state_of(self._variables)

    def views(self) -> list[Any]:
        return [np.asarray(memoryview(variable.value())) for variable in self._variables.values()]


class Jax(Trainer):
    """A jitted update that is given its own arrays back (donation), and Orbax' asynchronous checkpointer."""

    def build(self, arrays: states.Arrays) -> None:
        import jax

        self._jax = jax
        self._params = {name: jax.numpy.array(array) for name, array in arrays.items()}
        self._update = jax.jit(lambda params: {name: value * 0.999 for name, value in params.items()}, donate_argnums=0)

    def train(self) -> None:
        self._params = self._update(self._params)
        self._jax.block_until_ready(self._params)

    def state(self) -> Any:
        from modelkeep.frameworks import jax

        return jax.state_of(self._params)

    def views(self) -> list[Any]:
        return [np.asarray(array) for array in self._params.values()]

    def peers(self) -> dict[str, tuple[Callable[[Path], Any], Callable[[Any], None]]]:
        import orbax.checkpoint as ocp

        def begin(path: Path) -> Any:
            checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
            checkpointer.save(path, args=ocp.args.StandardSave(self._params))
            return checkpointer

        return {"Orbax, async": (begin, lambda checkpointer: checkpointer.wait_until_finished())}


class Torch(Trainer):
    """Parameters, changed in place, and DCP's asynchronous save."""

    copies_on_write = False

    def build(self, arrays: states.Arrays) -> None:
        import torch

        self._params = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def train(self) -> None:
        for tensor in self._params.values():
            tensor.mul_(0.999)

    def state(self) -> Any:
        from modelkeep.frameworks import torch

        return torch.state_of(self._params)

    def views(self) -> list[Any]:
        return [tensor.numpy() for tensor in self._params.values()]

    def peers(self) -> dict[str, tuple[Callable[[Path], Any], Callable[[Any], None]]]:
        import torch.distributed.checkpoint as dcp

        def begin(path: Path) -> Any:
            return dcp.async_save(self._params, checkpoint_id=path, no_dist=True)

        return {"torch DCP, async": (begin, lambda future: future.result())}


def run(settings: Settings) -> list[Report]:
    """The table of all frameworks."""
    report = Report(
        f"what training waits for, {settings.size >> 20} MiB in {_ARRAYS} arrays, all changed by each step",
        ["framework", "saver", "call, µs an array", "added to 4 steps, s", "one memory copy, s", "copies", "save, s"],
    )
    for name in ("Tensorflow", "Jax", "Torch"):
        with ExitStack() as stack:
            trainer = stack.enter_context(Worker(f"bench.waiting.{name}", size=settings.size))
            for way in trainer.call("ways"):
                settings.told(f"{name}: {way}")
                _add(report, name, way, trainer, settings)
    report.remarks.append("copies: added, in memory copies into warm memory; a first save's row is the process' first")
    report.remarks.append(f"{_HELD}: what the framework's own copy costs, since it may not write to what is held")
    return [report]


def _add(report: Report, name: str, way: str, trainer: Worker, settings: Settings) -> None:
    kind = {"modelkeep": "ours", _HELD: "limit"}.get(way, "peer")
    try:
        found = [trainer.call("measure", way) for _ in range(settings.rounds + 1)]
    except WorkerDied as error:
        report.remarks.append(f"{way}: {error}")
        return
    for rounds, label in ((found[:1], f"{way}, first save"), (found[1:], way)):
        call, added, copy, save = (median(one[what] for one in rounds) for what in ("call", "added", "copy", "save"))
        copies = median(one["added"] / one["copy"] for one in rounds)
        report.add(
            kind,
            name,
            label,
            f"{call / _ARRAYS * 1e6:.0f}",
            f"{added:.3f}",
            f"{copy:.3f}",
            f"{copies:.2f}",
            f"{save:.2f}",
        )
    if kind == "ours":
        views, fresh = (median(one[what] for one in found[1:]) for what in ("views", "fresh"))
        copies = median(one["fresh"] / one["copy"] for one in found[1:])
        report.remarks.append(
            f"{name}: numpy views of the arrays alone take {views / _ARRAYS * 1e6:.1f} µs an array; a copy into memory "
            f"that was never touched takes {fresh:.3f} s, {copies:.1f} warm copies"
        )
