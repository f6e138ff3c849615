"""JAX: any pytree of arrays as a state tree."""

import jax
import numpy as np


def to_numpy(array: jax.Array, *, copy: bool = False) -> np.ndarray:
    """Return the array as numpy, of the same bits; without ``copy`` a read-only view where the device is the host."""
    view = np.asarray(array)
    return view.copy() if copy else view


def from_numpy(array: np.ndarray, like: jax.Array) -> jax.Array:
    """Return a jax array of the same bits, on the devices and with the sharding of ``like``.

    ``device_put`` may keep the numpy buffer as its own, so it is given a copy that nobody else holds.
    """
    return jax.device_put(np.array(array), like.sharding)
