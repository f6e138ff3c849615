"""What ``mk.keras.fit`` adds to a step of ``Model.fit``, on each backend, beside ``Model.fit`` against itself.

Steps are timed from within the epoch, past the first ones: what a fit costs once (compiling, the first and the last
checkpoint) is not a cost of each step.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter, process_time
from typing import Any

from bench import contest
from bench.contest import Contender, Result
from bench.report import Report
from bench.settings import Settings
from bench.worker import Worker

BACKENDS = ("tensorflow", "jax", "torch")
WAYS = ("Model.fit", "Model.fit again", "mk.keras.fit")
_SMALL = (32, 32, 64)
"""Rows of a batch, features, units: a step that takes no time, so that what is added to it shows."""
_LARGE = (256, 512, 1024)
"""The same for a step of 20 ms and more."""
_EVERY_SECONDS = 5.0
_LONG_ROUNDS = 3


class Fitter:
    """A compiled model for each way to fit, and the data of one epoch."""

    def __init__(self, steps: int, large: bool = False) -> None:
        import keras
        import numpy as np

        import modelkeep as mk

        generator = np.random.default_rng(0)
        self._batch, features, units = _LARGE if large else _SMALL
        self._every = mk.every(seconds=_EVERY_SECONDS) if large else mk.every(epochs=1000)
        self._data = (
            generator.random((steps * self._batch, features)).astype("float32"),
            generator.integers(0, 10, steps * self._batch),
        )
        self._steps = steps
        self._models = {way: _model(keras, features, units) for way in WAYS}
        self._folder = tempfile.TemporaryDirectory(prefix="modelkeep-bench-")
        self._keep = mk.open(self._folder.name)
        self._number = 0

    def step(self, way: str) -> dict[str, float]:
        """Fit for one epoch; return the seconds of a step by the ``wall`` clock and of the ``cpu``."""
        clock = _clock(self._steps)
        arguments = {"batch_size": self._batch, "verbose": 0, "callbacks": [clock]}
        model = self._models[way]
        if way == "mk.keras.fit":
            self._fit_kept(model, arguments)
        else:
            model.fit(*self._data, **arguments)
        return {"wall": clock.wall, "cpu": clock.cpu}

    def _fit_kept(self, model: Any, arguments: dict[str, Any]) -> None:
        import modelkeep as mk

        self._number += 1
        with self._keep.run(f"bench-{self._number}", seed=0, capture=False) as run:
            mk.keras.fit(model, *self._data, run=run, checkpoint=self._every, **arguments)


def _model(keras: Any, features: int, units: int) -> Any:
    hidden = [keras.layers.Dense(units, activation="relu") for _ in range(1 if units < 100 else 3)]
    model = keras.Sequential([keras.Input((features,)), *hidden, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def _clock(steps: int) -> Any:
    """A callback that times the steps after the first fifth; it has a state, so that it can be resumed."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._first = steps // 5
            self.wall = self.cpu = 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002  Keras names it
            if batch == self._first:
                self.wall, self.cpu = perf_counter(), process_time()
            elif batch == steps - 1:
                count = steps - 1 - self._first
                self.wall = (perf_counter() - self.wall) / count
                self.cpu = (process_time() - self.cpu) / count

        def get_state(self) -> dict[str, float]:
            return {}

        def set_state(self, _: dict[str, float]) -> None:
            return

    return Clock()


def run(settings: Settings) -> list[Report]:
    """The tables of a small step and of a long one."""
    return [_small(settings), _large(settings)]


def _small(settings: Settings) -> Report:
    report = Report(
        "a training step (a small Keras model), ms",
        ["backend", "Model.fit, CPU", "added CPU, µs", "A/A, µs", "Model.fit, wall", "added wall, µs", "A/A, µs "],
    )
    with ExitStack() as stack:
        for backend in BACKENDS:
            # a step on torch takes ten times as long, and its figures need no more of them
            steps = settings.steps(200 if backend == "torch" else 1000, 40)
            fitter = stack.enter_context(Worker("bench.overhead.Fitter", env={"KERAS_BACKEND": backend}, steps=steps))
            found = _measured(fitter, settings)
            cells = [backend]
            for clock in ("cpu", "wall"):
                plain, again, kept = found[clock]
                cells += [f"{plain.middle * 1e3:.3f}", _added(kept, plain), _added(again, plain)]
            report.add("ours", *cells)
    report.remarks.append("added: median over rounds of the difference to Model.fit in the same round")
    report.remarks.append("A/A: Model.fit with another model of the same kind: what noise alone adds")
    return report


def _large(settings: Settings) -> Report:
    report = Report(
        f"a training with a checkpoint every {_EVERY_SECONDS:.0f} s, wall time of a step",
        ["backend", "Model.fit, ms", "mk.keras.fit", "A/A"],
    )
    some = replace(settings, rounds=min(settings.rounds, _LONG_ROUNDS))
    with ExitStack() as stack:
        for backend in BACKENDS:
            settings.told(f"{backend}, long steps")
            fitter = stack.enter_context(
                Worker(
                    "bench.overhead.Fitter",
                    env={"KERAS_BACKEND": backend},
                    steps=settings.steps(400, 20),
                    large=True,
                )
            )
            plain, again, kept = _measured(fitter, some)["wall"]
            shares = [f"{(one.ratio(plain) - 1) * 100:+.1f} %" for one in (kept, again)]
            report.add("ours", backend, f"{plain.middle * 1e3:.1f}", *shares)
    report.remarks.append("in per cent of Model.fit in the same round; A/A: Model.fit against itself")
    return report


def _measured(fitter: Worker, settings: Settings) -> dict[str, list[Result]]:
    """For each clock the results of the three ways, measured in the same rounds."""
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}

    def measure(way: str) -> float:
        found = fitter.call("step", way)
        cpu[way].append(float(found["cpu"]))
        return float(found["wall"])

    contenders = [Contender(way, "ours", partial(measure, way)) for way in WAYS]
    wall = contest.hold(contenders, settings.rounds, told=settings.told)
    # the first is of the round that does not count
    by_cpu = [Result(one.contender, dict(enumerate(cpu[one.contender.name][1:]))) for one in wall]
    return {"wall": wall, "cpu": by_cpu}


def _added(result: Result, base: Result) -> str:
    return f"{median(result.costs[turn] - base.costs[turn] for turn in base.costs) * 1e6:+.0f}"
