"""The helper threads of a save and a load, without threads: what they would do is done where it is handed over.

So the order of all calls follows from the seed alone. The background writer does each save either when it is handed
over or when somebody next waits for it, which is drawn: those are the first and the last moment at which its thread
could.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Self

from modelkeep.training.writer import Writer

from .kernel import Gone


class InlineWorkers:
    """Stands for `modelkeep.backend.Workers`, and for a pool that maps."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001  it belongs to who waits for the result
            future.set_exception(error)
        return future

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter([function(item) for item in items])

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def inline_writer(late: Callable[[], bool], clock: Callable[[], float]) -> type[Writer]:
    """The background writer of a run, whose thread never starts; ``late()``: whether a save waits to be waited for."""

    class InlineWriter(Writer):
        def __init__(self, write_rows: Callable[[Any], None]) -> None:
            super().__init__(write_rows, clock=clock)

        def save(self, job: Callable[[], None]) -> None:
            super().save(job)
            if not late():
                self._turn()

        def close(self) -> None:
            self._closing = True
            self._turn()
            self._raise_error()

        def _wait_until_idle(self) -> None:
            self._turn()

        def _turn(self) -> None:
            """One round of `Writer._work`."""
            while self._job is not None or self._flush_asked or (self._closing and self._rows):
                job, rows = self._job, self._rows
                self._job, self._rows, self._flush_asked = None, [], False
                self._do(rows, job)
                if isinstance(self._error, Gone):
                    raise self._error
                if self._error is not None and job is None:
                    return  # the rows stay, and their error is told

    return InlineWriter


class NoThread:
    """Stands for `threading.Thread` of the background writer."""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False
