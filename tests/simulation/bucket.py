"""An object store in memory that answers as S3 does, whose requests are calls of a simulated machine.

The store is obstore's own. A request may be sent twice, since the answer to the first got lost and obstore asked again:
then it finds what it has made itself. Whoever sends one may be killed before it.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import obstore
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from modelkeep.backend import objects

from .faults import Faults, Outage
from .kernel import Act, Gone, Kernel

VERBS = ("put", "get", "get_range", "head", "delete", "list", "list_with_delimiter")
_CHANGING = ("put", "delete")


class Bucket:
    """The objects, and when each was made by the clock of the machine."""

    def __init__(self, chance: random.Random) -> None:
        self._store, self._chance = MemoryStore(), chance
        self.kernel: Kernel  # each needs the other
        self._times: dict[str, float] = {}
        self.full = False
        """What `Faults` says of a disk; a bucket never is."""
        self.repeated = 0
        """Answers that got lost."""

    def put(self, path: str, data: Any, **options: Any) -> Any:
        done = obstore.put(self._store, path, bytes(data), **options)
        self._times[path] = self.kernel.clock
        if self._chance.random() < 0.2:
            self.repeated += 1
            return obstore.put(self._store, path, bytes(data), **options)
        return done

    def get(self, path: str, **options: Any) -> Any:
        return obstore.get(self._store, path, **options)

    def get_range(self, path: str, **options: Any) -> Any:
        return obstore.get_range(self._store, path, **options)

    def head(self, path: str) -> Any:
        return obstore.head(self._store, path)

    def delete(self, path: str) -> None:
        obstore.delete(self._store, path)

    def list(self, prefix: str, **options: Any) -> Iterator[list[dict[str, Any]]]:
        pages = list(obstore.list(self._store, prefix or None, **options))
        return iter([[self._dated(one) for one in sorted(page, key=lambda one: one["path"])] for page in pages])

    def list_with_delimiter(self, prefix: str) -> Any:
        return obstore.list_with_delimiter(self._store, prefix or None)

    def path_of(self, descriptor: int) -> str:
        raise AssertionError(f"a bucket has no descriptor {descriptor}")

    def _dated(self, meta: Any) -> dict[str, Any]:
        return {**meta, "last_modified": datetime.fromtimestamp(self._times[meta["path"]], UTC)}


class RequestFaults(Faults):
    """What befalls requests: no answer, none though it was done, a network that is away for a while, deaths around one.

    Whoever sends a request has asked again for minutes when it is told here that nobody answers.
    """

    def _refuse(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        return self._unanswered(verb)

    _short = _refuse

    def _lose(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        if verb not in _CHANGING:
            return self._unanswered(verb)
        self.counts[f"lost {verb}"] += 1
        self.kernel.process.harmed += 1

        def act(do: Callable[[], Any]) -> Any:
            do()
            raise GenericError(f"the answer to {verb} got lost")

        return act

    def _kill(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        return self._death("kill", lambda: self.kernel.kill(self.kernel.process))

    def _cut(self, verb: str, arguments: tuple[Any, ...]) -> Act | None:
        return self._death("cut", self.kernel.power_off)

    def _death(self, name: str, die: Callable[[], None]) -> Act:
        """Before the request, or when the store has it and has not answered."""
        self.counts[name] += 1
        sent = self.chance.random() < 0.5

        def act(do: Callable[[], Any]) -> Any:
            if sent:
                do()
            die()
            raise Gone

        return act

    def begin_outage(self, code: int, calls: int) -> Outage:
        """The network is away for so many requests of whatever process."""
        self._outage_now = Outage(code, frozenset(VERBS), self.kernel.steps + calls)
        self.counts["outage"] += 1
        return self._outage_now

    def _answer(self, verb: str, code: int) -> Act:
        return self._unanswered(verb)

    def _unanswered(self, verb: str) -> Act:
        self.counts[f"unanswered {verb}"] += 1
        self.kernel.process.harmed += 1

        def act(_: Callable[[], Any]) -> Any:
            raise GenericError(f"nobody answers to {verb}")

        return act


def obstore_of(kernel: Kernel) -> Any:
    """What `objects` gets for `obstore`: the store that it passes is the machine's one bucket."""

    def bound(verb: str) -> Any:
        def call(_: Any, path: Any = None, *rest: Any, **options: Any) -> Any:
            prefix = options.pop("prefix", path)
            return kernel.call(verb, prefix or "", *rest, **options)

        return call

    return SimpleNamespace(**{verb: bound(verb) for verb in VERBS})


_SHARD_BYTES = 1 << 10
"""So that small states go up as several objects."""


def backend_in() -> objects.ObjectBackend:
    """A backend on the machine's bucket, whose clock is the machine's."""
    backend = objects.ObjectBackend("s3://simulation/keep", region="nowhere", skip_signature=True)
    backend._ahead = 0.0
    backend.shard_bytes = _SHARD_BYTES
    return backend
