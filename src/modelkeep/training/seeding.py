"""One seed for every process-wide random generator, set before data and model are built."""

import operator
import random
import secrets
import sys

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
    """Seed Python, numpy and those of TensorFlow, Keras and torch that are imported. Jax has no global generator.

    >>> seed_generators(7)
    >>> first = random.random()
    >>> seed_generators(7)
    >>> random.random() == first
    True
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the process-wide generator is what this is about
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "keras" in sys.modules:
        _seed_keras(seed)


def _seed_keras(seed: int) -> None:
    """What ``keras.utils.set_random_seed`` does beyond the above; that one imports TensorFlow, if it is installed."""
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator
    from keras.src.utils import rng_utils

    global_state.set_global_attribute(rng_utils.GLOBAL_RANDOM_SEED, seed)
    global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, None)
