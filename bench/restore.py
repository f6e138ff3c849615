"""Restore into memory that is there already: hashes checked by modelkeep, beside unchecked loads and raw reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench import contest, disk, scratch, states
from bench.contest import Contender
from bench.report import Report, compared
from bench.settings import Settings
from bench.worker import Worker


class Restorer:
    """One state, saved in each format, and live arrays that it is restored into."""

    def __init__(self, size: int, place: str) -> None:
        import torch
        from safetensors.numpy import save_file

        import modelkeep as mk

        self._root = Path(place)
        arrays = states.make(size)
        self._wanted = arrays
        self._live = {name: np.ones_like(array) for name, array in arrays.items()}
        self._keep = mk.open(self._path("modelkeep"))
        self._snapshot = self._keep.save_state(arrays)
        save_file(arrays, self._path("safetensors"))
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, self._path("torch.load"))
        disk.write_plain(self._path("raw"), disk.buffers(arrays))
        self._ways: dict[str, tuple[Path, Callable[[], None]]] = {
            "raw read, 1 thread": (self._path("raw"), lambda: self._read(1)),
            "raw read, 2 threads": (self._path("raw"), lambda: self._read(2)),
            "modelkeep": (
                self._path("modelkeep"),
                lambda: self._keep.load_state(self._snapshot, into=self._live),
            ),
            "safetensors": (self._path("safetensors"), self._load_safetensors),
            "torch.load": (self._path("torch.load"), self._load_torch),
        }

    def ways(self) -> list[str]:
        """The names of the ways to restore."""
        return list(self._ways)

    def restore(self, way: str, cold: bool) -> float:
        """Restore, from the page cache or from a file that was evicted from it, and return the seconds."""
        path, act = self._ways[way]
        if cold:
            disk.evict(path)
        else:
            self._touch(path)
        started = perf_counter()
        act()
        return perf_counter() - started

    def check(self) -> bool:
        """Whether the last restore gave the bits that were saved."""
        return all(np.array_equal(self._live[name], array) for name, array in self._wanted.items())

    def _path(self, name: str) -> Path:
        return self._root / name

    def _touch(self, path: Path) -> None:
        """Have all of it in the page cache."""
        for one in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
            one.read_bytes()

    def _assign(self, found: dict[str, Any]) -> None:
        for name, array in self._live.items():
            np.copyto(array, found[name])

    def _read(self, threads: int) -> None:
        disk.read_plain(self._path("raw"), disk.buffers(self._live), threads)

    def _load_safetensors(self) -> None:
        from safetensors.numpy import load_file

        self._assign(load_file(self._path("safetensors")))

    def _load_torch(self) -> None:
        import torch

        loaded = torch.load(self._path("torch.load"), weights_only=True)
        self._assign({name: tensor.numpy() for name, tensor in loaded.items()})


def run(settings: Settings) -> list[Report]:
    """The tables of warm and of cold restores."""
    reports = []
    with scratch.folder() as root, Worker("bench.restore.Restorer", size=settings.size, place=str(root)) as worker:
        ways = worker.call("ways")
        for cold, word in ((False, "page cache warm"), (True, "cold: files evicted")):
            contenders = [Contender(way, _kind(way), partial(worker.call, "restore", way, cold)) for way in ways]
            results = contest.hold(contenders, settings.rounds, told=settings.told)
            table = compared(
                f"restore of {settings.size >> 20} MiB into live arrays, {word}",
                results,
                contest.fastest(results, "limit"),
            )
            ours = contest.fastest(results, "ours")
            safetensors = next(result for result in results if result.contender.name == "safetensors")
            table.remarks.append(
                f"modelkeep, every byte checked, takes {ours.ratio(safetensors):.2f} x safetensors, unchecked"
            )
            reports.append(table)
    return reports


def _kind(way: str) -> str:
    return "ours" if way == "modelkeep" else "limit" if way.startswith("raw") else "peer"
