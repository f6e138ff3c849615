"""Models: publish and load beside Keras' own files, versions that differ in one layer, and every keras.applications."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench import contest, scratch
from bench.contest import Contender
from bench.report import Report, compared
from bench.settings import Settings
from bench.worker import Worker

WIDTH = 2048
MODEL_BYTES = 400 << 20
VERSIONS = 1000


class Loader:
    """One model of many Dense layers, published in a keep and saved in Keras' formats."""

    def __init__(self, nbytes: int, place: str) -> None:
        import keras

        import modelkeep as mk

        self._root = Path(place)
        width = WIDTH if nbytes >= MODEL_BYTES else 256
        layers = [keras.layers.Dense(width) for _ in range(max(1, nbytes // (4 * width * width)))]
        self._model = keras.Sequential([keras.Input((width,)), *layers])
        self._model.compile("sgd", "mse")
        self._twin = keras.models.clone_model(self._model)
        self._keep = mk.open(self._root / "keep")
        self._keep.publish("wide", self._model)
        self._model.save(self._root / "wide.keras")
        self._model.save_weights(self._root / "wide.weights.h5")
        with self._keep.run("run", seed=0) as run:
            x, y = np.zeros((4, width), "f4"), np.zeros((4, width), "f4")
            mk.keras.fit(self._model, x, y, epochs=1, verbose=0, run=run)
        self._ways: dict[str, tuple[str, Callable[[], Any]]] = {
            "keras load_weights, into a built model": (
                "wide.weights.h5",
                lambda: self._twin.load_weights(self._root / "wide.weights.h5"),
            ),
            "keras load_model": ("wide.keras", lambda: keras.models.load_model(self._root / "wide.keras")),
            "modelkeep load_model": ("keep", lambda: self._keep.load_model("model:wide@1")),
            "modelkeep load_model, into a built model": (
                "keep",
                lambda: self._keep.load_model("model:wide@1", into=self._twin),
            ),
        }

    def ways(self) -> list[str]:
        """The names of the ways to load."""
        return list(self._ways)

    def load(self, way: str) -> float:
        """Load with the files in the page cache, and return the seconds."""
        name, act = self._ways[way]
        for path in (self._root / name).rglob("*") if (self._root / name).is_dir() else [self._root / name]:
            if path.is_file():
                path.read_bytes()
        started = perf_counter()
        act()
        return perf_counter() - started

    def promote(self) -> tuple[float, int]:
        """Publish the checkpoint of the run; return the seconds, and the bytes of tensors that it wrote."""
        before = _tensor_bytes(self._root / "keep")
        started = perf_counter()
        self._keep.publish("promoted", "run:run@last")
        seconds = perf_counter() - started
        return seconds, _tensor_bytes(self._root / "keep") - before


class Publisher:
    """Versions of a model of fifty layers, one of which changes from each to the next."""

    def __init__(self, width: int, place: str) -> None:
        import keras

        import modelkeep as mk

        self._place = Path(place) / "keep"
        layers = [keras.layers.Dense(width, use_bias=False) for _ in range(50)]
        self._model = keras.Sequential([keras.Input((width,)), *layers])
        self._keep = mk.open(self._place)
        self._keep.publish("deep", self._model)

    def publish(self, count: int) -> dict[str, float]:
        """Publish so many; the bytes on disk, those that changed, and the seconds of each."""
        before, changed, spent = disk_bytes(self._place), 0, []
        for number in range(count):
            kernel = self._model.layers[number % 50].kernel
            kernel.assign_add(np.full(kernel.shape, 1e-3, "f4"))
            changed += int(np.prod(kernel.shape)) * 4
            started = perf_counter()
            self._keep.publish("deep", self._model)
            spent.append(perf_counter() - started)
        spent.sort()
        return {"disk": disk_bytes(self._place) - before, "changed": changed, "middle": spent[len(spent) // 2]}


class Applications:
    """Each architecture of keras.applications, saved and loaded in both ways."""

    def __init__(self, place: str) -> None:
        self._root = Path(place)

    def names(self) -> list[str]:
        """All of them, without weights from the network."""
        from keras import applications

        return [name for name, found in vars(applications).items() if inspect.isfunction(found)]

    def compare(self, name: str) -> dict[str, Any]:
        """Bytes and seconds of ``.keras`` and of a version, and whether all weights are the same bits."""
        import keras

        import modelkeep as mk

        model = getattr(keras.applications, name)(weights=None)
        found: dict[str, Any] = {"parameters": model.count_params()}
        file = self._root / f"{name}.keras"
        found["keras save"] = _seconds(lambda: model.save(file))
        found["keras load"] = _seconds(lambda: keras.models.load_model(file))
        found["keras bytes"] = file.stat().st_size
        file.unlink()
        keep = mk.open(self._root / name)
        found["publish"] = _seconds(lambda: keep.publish(name, model))
        loaded: list[Any] = []
        found["load"] = _seconds(lambda: loaded.append(keep.load_model(name)))
        found["bytes"] = disk_bytes(self._root / name)
        pairs = zip(model.get_weights(), loaded[0].get_weights(), strict=True)
        found["same"] = all(one.tobytes() == other.tobytes() for one, other in pairs)
        keras.backend.clear_session()
        return found


def run(settings: Settings) -> list[Report]:
    """The tables of loading, of publishing, and of the applications."""
    env = {"KERAS_BACKEND": "tensorflow"}
    with scratch.folder() as root:
        size = min(MODEL_BYTES, settings.size)
        with Worker("bench.models.Loader", env=env, nbytes=size, place=str(root)) as worker:
            ways = worker.call("ways")
            contenders = [Contender(way, _kind(way), partial(worker.call, "load", way)) for way in ways]
            results = contest.hold(contenders, settings.rounds, told=settings.told)
            loads = compared(f"load of a Keras model of {size >> 20} MiB, page cache warm", results, results[0])
            loads.remarks.append("modelkeep checks every byte; Keras checks none")
            promotions = [worker.call("promote") for _ in range(settings.rounds)]
    with scratch.folder() as root, Worker("bench.models.Publisher", env=env, width=512, place=str(root)) as worker:
        count = settings.steps(VERSIONS, 20)
        settings.told(f"{count} versions")
        versions = worker.call("publish", count)
    with scratch.folder() as root, Worker("bench.models.Applications", env=env, place=str(root)) as worker:
        names = worker.call("names")
        applications = {}
        for name in names[:2] if settings.quick else names:
            settings.told(name)
            applications[name] = worker.call("compare", name)
    return [loads, _published(size, promotions, count, versions), _table(applications)]


def _published(size: int, promotions: list[list[float]], count: int, versions: dict[str, float]) -> Report:
    report = Report("publishing", ["what", "found", "wanted"])
    seconds = sorted(one[0] for one in promotions)[len(promotions) // 2]
    report.add("ours", f"a checkpoint of {size >> 20} MiB that the keep has, median", f"{seconds * 1000:.0f} ms", "100")
    report.add("ours", "tensor bytes that it writes", f"{max(one[1] for one in promotions):,}", "0")
    ratio = versions["disk"] / versions["changed"]
    report.add("ours", f"{count} versions, one of 50 layers changed: disk / changed bytes", f"{ratio:.3f}", "1.05")
    report.add("ours", "each of them, 50 MiB in memory, median", f"{versions['middle'] * 1000:.0f} ms", "")
    return report


def _table(applications: dict[str, dict[str, Any]]) -> Report:
    columns = ["architecture", "million", "MB", "x .keras", "save, s", "x .keras", "load, s", "x .keras", "same bits"]
    report = Report("keras.applications: a version beside a .keras file", columns)
    for name, one in applications.items():
        report.add(
            "ours",
            name,
            f"{one['parameters'] / 1e6:.1f}",
            f"{one['bytes'] / 1e6:.0f}",
            f"{one['bytes'] / one['keras bytes']:.2f}",
            f"{one['publish']:.2f}",
            f"{one['publish'] / one['keras save']:.2f}",
            f"{one['load']:.2f}",
            f"{one['load'] / one['keras load']:.2f}",
            "yes" if one["same"] else "NO",
        )
    return report


def disk_bytes(place: Path) -> int:
    """What the files below a folder hold."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def _tensor_bytes(keep: Path) -> int:
    return sum(path.stat().st_size for path in keep.rglob("*.safetensors"))


def _seconds(act: Callable[[], object]) -> float:
    started = perf_counter()
    act()
    return perf_counter() - started


def _kind(way: str) -> str:
    return "ours" if way.startswith("modelkeep") else "peer"
