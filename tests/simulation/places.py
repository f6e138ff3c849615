"""Where a simulated keep lies: on the twin of a disk, in a real folder, or in memory. Each can lose its processes."""

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from modelkeep import Keep
from modelkeep import open as open_keep
from modelkeep.errors import NotFound
from modelkeep.store import Store

from .bucket import Bucket, RequestFaults, backend_in
from .disk import Abilities, Disk
from .faults import Faults, Weights
from .installed import Proportions, forget_runs, installed
from .kernel import Kernel, Process, RealDisk
from .power import Cut, after_cut

_MEMORY = itertools.count()


class Place(Protocol):
    """What `world.World` asks of the place of its keep."""

    kernel: Kernel
    slots: int
    """How many processes may use it at a time."""
    intrudes: bool
    """Whether another process may do something in the middle of a call."""
    locks: bool
    """Whether a run that a living process has open is refused to others; else the older one is fenced."""

    def spawn(self, name: str) -> Process: ...

    def replace(self, process: Process) -> Process:
        """The process that takes a dead one's place."""

    def kill(self, process: Process) -> None: ...

    def forget(self, process: Process) -> None:
        """Nobody waits for what a dead process has open."""

    def being(self, process: Process) -> Any:
        """A context in which calls are this process's."""

    def open(self) -> Keep: ...

    def note(self, text: str) -> None:
        """Put a remark into the trace."""

    def observer(self) -> Any:
        """A context with the keep as a new process sees it, while nothing happens; None when there is none."""


class KernelPlace:
    """A keep on a simulated machine, whose disk is the twin or the kernel of this one."""

    locks = True

    def __init__(self, kernel: Kernel, url: str, *, slots: int, faults: Faults | None = None) -> None:
        self.kernel = kernel
        self.slots = slots
        self.faults = faults
        self.intrudes = faults is not None and faults.weights.intrude > 0
        self._url = url

    def spawn(self, name: str) -> Process:
        return self.kernel.spawn(name)

    def replace(self, process: Process) -> Process:
        self.forget(process)
        self.kernel.processes.remove(process)
        return self.kernel.spawn(process.name)

    def kill(self, process: Process) -> None:
        self.kernel.kill(process)

    def note(self, text: str) -> None:
        self.kernel.note(text)

    def forget(self, process: Process) -> None:
        with self.being(process):
            forget_runs(process.runs)

    @contextmanager
    def being(self, process: Process) -> Iterator[None]:
        before = self.kernel.process
        self.kernel.become(process)
        try:
            yield
        finally:
            self.kernel.become(before)

    def open(self, *, create: bool = True) -> Keep:
        return open_keep(self._url, create=create)

    @contextmanager
    def observer(self) -> Iterator[Keep | None]:
        process, log = self.kernel.spawn("observer"), self.kernel.log
        self.kernel.log = None  # who only looks is no part of what is traced
        try:
            with self._in_peace(), self.being(process):
                try:
                    keep = self.open(create=False)
                except NotFound:
                    keep = None
                yield keep
                assert not process.descriptors, "who only reads leaves nothing open"
        finally:
            self.kernel.log = log
            self.kernel.processes.remove(process)

    @contextmanager
    def _in_peace(self) -> Iterator[None]:
        if self.faults is not None:
            with self.faults.paused():
                yield
            return
        left = self.kernel.next_event - self.kernel.steps
        self.kernel.next_event = -1
        try:
            yield
        finally:
            self.kernel.next_event = self.kernel.steps + left if left > 0 else -1


class TwinPlace(KernelPlace):
    """A keep on the twin of a disk, whose power can be cut."""

    def __init__(
        self,
        chance: random.Random,
        weights: Weights | None = None,
        *,
        slots: int = 3,
        abilities: Abilities = Abilities(),  # noqa: B008
    ) -> None:
        kernel = Kernel(RealDisk())
        kernel.disk = Disk(kernel.now, abilities)  # each needs the other: the disk dates files by the machine's clock
        super().__init__(kernel, "/twin/keep", slots=slots, faults=Faults(kernel, chance, weights) if weights else None)
        self._chance = chance

    @contextmanager
    def installed(self, proportions: Proportions = Proportions()) -> Iterator[None]:  # noqa: B008
        """modelkeep runs on it in the block."""
        with installed(self.kernel, self._chance, proportions):
            yield

    def images(self, cuts: list[Cut]) -> Iterator[Cut]:
        """Put what the disk may hold after the power cut in its place, one after the other; the last one stays."""
        before = self.kernel.disk
        assert isinstance(before, Disk)
        for cut in cuts:
            self.kernel.power_on(after_cut(before, cut, self._chance))
            self.kernel.note(f"the power is back: {cut.value}")
            yield cut


class LocalPlace(KernelPlace):
    """A keep in a real folder, whose processes can be killed in any call."""

    def __init__(self, folder: Path, chance: random.Random, *, slots: int = 2) -> None:
        super().__init__(Kernel(RealDisk(skip=("fsync",))), str(folder / "keep"), slots=slots)
        self._chance = chance

    @contextmanager
    def installed(self) -> Iterator[None]:
        """modelkeep runs on it in the block."""
        with installed(self.kernel, self._chance):
            yield


class BucketPlace(KernelPlace):
    """A keep in an object store, whose requests may be sent twice; processes can be killed before any of them."""

    locks = False

    def __init__(self, chance: random.Random, weights: Weights | None = None, *, slots: int = 3) -> None:
        self.bucket = Bucket(chance)
        kernel = Kernel(self.bucket)
        self.bucket.kernel = kernel
        faults = RequestFaults(kernel, chance, weights) if weights else None
        super().__init__(kernel, "s3://simulation/keep", slots=slots, faults=faults)
        self._chance = chance

    def open(self, *, create: bool = True) -> Keep:
        return Keep(Store.open(backend_in(), create=create))

    @contextmanager
    def installed(self, proportions: Proportions = Proportions()) -> Iterator[None]:  # noqa: B008
        """modelkeep runs on it in the block."""
        with installed(self.kernel, self._chance, proportions):
            yield

    def images(self, cuts: list[Cut]) -> Iterator[Cut]:
        """The store is elsewhere and holds what it held, however the power of its users was cut."""
        for cut in cuts[:1]:
            self.kernel.power_on(self.bucket)
            yield cut


class MemoryPlace:
    """A keep in the memory of one process, which ends between two verbs."""

    slots = 1
    intrudes = False
    locks = True

    def __init__(self, chance: random.Random) -> None:
        self._place = KernelPlace(Kernel(RealDisk()), f"memory://simulation-{next(_MEMORY)}", slots=1)
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """modelkeep runs in one thread in the block."""
        with installed(self._place.kernel, self._chance):
            yield
