"""The budget holds while Keras builds: each variable and each symbolic tensor is counted before it takes memory.

Keras has no hook for that, so three of its methods are replaced while a model is built, for the thread that builds, and
put back afterwards. All backends share them: a variable's shape is validated before its initializer runs.
"""

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src import backend
from keras.src.backend.common.keras_tensor import KerasTensor
from keras.src.initializers.random_initializers import RandomInitializer

from modelkeep.budget import Budget
from modelkeep.errors import LimitExceeded
from modelkeep.model.fields import check_shape

_LOCK = threading.RLock()
_BITS = re.compile(r"\d+")


@dataclass(slots=True)
class Ledger:
    """What has been built so far, and the refusal if there was one: Keras swallows errors in places."""

    budget: Budget
    title: str
    drawn: bool
    thread: int = field(default_factory=threading.get_ident)
    refused: LimitExceeded | None = None
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    _parameters: int = 0
    _nbytes: int = 0

    def count(self, variable: Any, shape: tuple[int, ...], dtype: str) -> None:
        """Count a variable that is about to be made. Raises LimitExceeded."""
        size = math.prod(shape)
        new = (size, size * itemsize(dtype))
        # Keras validates some shapes twice, and a variable's id is free again once it is gone
        old = self._sizes.get(id(variable), (0, 0))
        self._sizes[id(variable)] = new
        self._parameters += new[0] - old[0]
        self._nbytes += new[1] - old[1]
        with self.recorded():
            where = f"{self.title}: with {variable.path} {list(shape)!r:.80}"
            self.budget.check("parameters", self._parameters, where)
            self.budget.check("nbytes", self._nbytes, where)

    def check(self, shape: Any, dtype: str) -> None:
        """Check the shape of an array that is no variable. Raises LimitExceeded."""
        with self.recorded():
            known = [axis if isinstance(axis, int) else None for axis in shape]
            check_shape(known, self.budget, f"{self.title}: an array of shape {known!r:.80}")
            if self.budget.nbytes < math.prod(abs(axis) for axis in known if axis is not None) * itemsize(dtype):
                check_shape([*known, itemsize(dtype)], self.budget, f"{self.title}: an array of shape {known!r:.80}")

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep a refusal, so that it is raised in the end even where Keras does not let it through."""
        if self.refused is not None:
            raise self.refused
        try:
            yield
        except LimitExceeded as error:
            self.refused = error
            raise

    def is_mine(self) -> bool:
        """Whether this thread is the one that builds."""
        return threading.get_ident() == self.thread


def itemsize(dtype: str) -> int:
    """Bytes that one value of a Keras dtype takes.

    >>> itemsize("bfloat16"), itemsize("bool"), itemsize("int4"), itemsize("float8_e4m3fn")
    (2, 1, 1, 1)
    """
    bits = _BITS.search(dtype)
    return max(int(bits[0]) // 8, 1) if bits else 1


@contextmanager
def limited(budget: Budget, title: str, *, drawn: bool = True) -> Iterator[Ledger]:
    """Within this context, what Keras builds in this thread stays within ``budget``.

    Args:
        budget: the limits for the bytes and the values of all variables together, and for each array in between.
        title: what is built, for errors.
        drawn: False leaves variables whose initial values would be drawn at random at zero; they are to be loaded.

    Raises:
        LimitExceeded: at the first variable beyond the budget, before its memory is taken.
    """
    with _LOCK, ExitStack() as stack:
        ledger = Ledger(budget, title, drawn)
        stack.enter_context(replaced(backend.Variable, "_validate_shape", _counting(ledger)))
        stack.enter_context(replaced(backend.Variable, "_initialize_with_initializer", _filling(ledger)))
        stack.enter_context(replaced(KerasTensor, "__init__", _shaping(ledger)))
        if backend.backend() == "torch":
            from modelkeep.model.guard_torch import Ceiling

            stack.enter_context(Ceiling(ledger))
        yield ledger


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within this context, the method ``name`` of a class is what ``make`` gives for it."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _counting(ledger: Ledger) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(before: Callable[..., Any]) -> Callable[..., Any]:
        def validate(variable: Any, shape: Any) -> Any:
            found = before(variable, shape)
            if ledger.is_mine():
                ledger.count(variable, tuple(found), variable._dtype)
            return found

        return validate

    return make


def _filling(ledger: Ledger) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(before: Callable[..., Any]) -> Callable[..., Any]:
        def initialize(variable: Any, initializer: Any) -> Any:
            if not ledger.drawn and ledger.is_mine() and isinstance(initializer, RandomInitializer):
                initializer = keras.initializers.Zeros()
            return before(variable, initializer)

        return initialize

    return make


def _shaping(ledger: Ledger) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(before: Callable[..., Any]) -> Callable[..., Any]:
        def init(tensor: Any, *args: Any, **kwargs: Any) -> None:
            before(tensor, *args, **kwargs)
            if ledger.is_mine():
                ledger.check(tensor.shape, tensor.dtype)

        return init

    return make
