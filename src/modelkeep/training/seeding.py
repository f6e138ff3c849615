"""One seed for every process-wide random generator, set before data and model are built."""

import importlib.util
import operator
import random
import secrets
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

from modelkeep.errors import UsageError

SEED_LIMIT = 1 << 32
"""Seeds are below 2**32: what numpy and Keras take."""


def draw_seed() -> int:
    """Return a seed that nobody can guess, below 2**31: small enough for every framework.

    >>> 0 <= draw_seed() < 2**31
    True
    """
    return secrets.randbelow(1 << 31)


def check_seed(seed: int) -> int:
    """Return ``seed`` when every framework takes it.

    Raises:
        UsageError: not a whole number from 0 to 2**32 - 1.

    >>> check_seed(7)
    7
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number < SEED_LIMIT:
        raise UsageError(f"seed={seed!r:.80} should be a whole number from 0 to {SEED_LIMIT - 1}")
    return number


def seed_generators(seed: int) -> None:
    """Seed Python, numpy, TensorFlow, Keras and torch; those that are not imported yet, when they are.

    Jax has no global generator. Nothing is imported.

    >>> seed_generators(7)
    >>> first = random.random()
    >>> seed_generators(7)
    >>> random.random() == first
    True
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the process-wide generator is what this is about
    for name, seed_framework in _SEEDERS.items():
        if name in sys.modules:
            seed_framework(seed)
    sys.meta_path[:] = [_SeedOnImport(seed), *(one for one in sys.meta_path if not isinstance(one, _SeedOnImport))]


class _SeedOnImport(MetaPathFinder):
    """Stands in front of the finders of modules, and seeds a framework once its import is done."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._is_asking = False

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        if fullname not in _SEEDERS or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader, self)
        return spec


class _SeedingLoader(Loader):
    """Lets the module's own loader load it, and is gone when the module can see its loader."""

    def __init__(self, loader: Loader, finder: _SeedOnImport) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _SEEDERS[module.__name__](self._finder.seed)


def _seed_tensorflow(seed: int) -> None:
    sys.modules["tensorflow"].random.set_seed(seed)


def _seed_torch(seed: int) -> None:
    sys.modules["torch"].manual_seed(seed)


def _seed_keras(seed: int) -> None:
    """What ``keras.utils.set_random_seed`` does beyond the others; that one imports TensorFlow, if it is installed."""
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator
    from keras.src.utils import rng_utils

    global_state.set_global_attribute(rng_utils.GLOBAL_RANDOM_SEED, seed)
    global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, None)


_SEEDERS: dict[str, Callable[[int], None]] = {
    "tensorflow": _seed_tensorflow,
    "torch": _seed_torch,
    "keras": _seed_keras,
}
