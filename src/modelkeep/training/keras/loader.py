"""Batches of a ``PyDataset`` in a given order, loaded ahead by its own workers."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Any

from keras.utils import PyDataset


def load_in_order(dataset: PyDataset, numbers: Sequence[int]) -> Iterator[Any]:
    """Yield batch ``n`` of ``dataset`` for each ``n`` of ``numbers``, in that order.

    With ``workers`` above 1 (or processes) at most ``max_queue_size`` batches are loaded ahead; otherwise each is
    loaded when it is asked for, in the thread that asks. An exception of a worker is raised here.
    """
    if dataset.workers <= 1 and not (dataset.workers and dataset.use_multiprocessing):
        for number in numbers:
            yield dataset[number]
        return
    with _pool(dataset) as pool:
        load: Callable[[int], Any] = _load_in_process if dataset.use_multiprocessing else dataset.__getitem__
        ahead: deque[AsyncResult[Any]] = deque()
        for number in numbers:
            if len(ahead) >= max(dataset.max_queue_size, 1):
                yield ahead.popleft().get()
            ahead.append(pool.apply_async(load, (number,)))
        while ahead:
            batch = ahead.popleft().get()
            if not ahead:  # Keras asks for no more than it needs, so the end of this generator may not be reached
                pool.close()
                pool.join()
            yield batch


def _pool(dataset: PyDataset) -> AbstractContextManager[Any]:
    """Processes are forked at each opening, so that they see the dataset as it is then."""
    if not dataset.use_multiprocessing:
        return ThreadPool(dataset.workers)
    return multiprocessing.get_context("fork").Pool(dataset.workers, _adopt, (dataset,))


def _adopt(dataset: PyDataset) -> None:
    """In a worker process: remember the dataset that the fork brought, and leave Ctrl-C to the training.

    SIGTERM ends it in the kernel: a handler in Python, as the fork brings one, is not run while a worker waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _load_in_process.dataset = dataset  # type: ignore[attr-defined]


def _load_in_process(number: int) -> Any:
    return _load_in_process.dataset[number]  # type: ignore[attr-defined]
