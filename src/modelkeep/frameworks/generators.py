"""numpy's random generators: their state as a tree, and back."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from modelkeep.frameworks.mismatch import Path, Plan, described

Generator: TypeAlias = np.random.Generator | np.random.BitGenerator | np.random.RandomState

KINDS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState)


def generator_state(generator: Generator) -> dict[str, Any]:
    """Return the state as numpy describes it: dicts of ints and arrays, with the kind under ``bit_generator``.

    How often its seed sequence has spawned children is not part of it.

    >>> generator_state(np.random.default_rng(1))["bit_generator"]
    'PCG64'
    """
    if isinstance(generator, np.random.RandomState):
        return dict(generator.get_state(legacy=False))
    return dict(_bits(generator).state)


def plan_generator(generator: Generator, tree: object, todo: Plan, path: Path) -> None:
    """Plan to set a generator to a state of its own kind, draws that it has buffered included."""
    kind = generator_state(generator)["bit_generator"]
    found = tree.get("bit_generator") if isinstance(tree, Mapping) else None
    if not isinstance(tree, Mapping) or found != kind:
        todo.refuse(path, f"wanted the state of a numpy {kind}, found that of {found or described(tree)}")
        return
    try:
        # numpy itself says what it refuses, on a generator that nobody uses.
        _set(_another(generator), tree)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        todo.refuse(path, f"wanted the state of a numpy {kind}, found one that it refuses ({error})")
        return
    todo.do(lambda: _set(generator, tree))


def _set(generator: Generator, tree: Mapping[str, Any]) -> None:
    if isinstance(generator, np.random.RandomState):
        generator.set_state(dict(tree))
    else:
        _bits(generator).state = dict(tree)


def _another(generator: Generator) -> Generator:
    if isinstance(generator, np.random.RandomState):
        bits = generator._bit_generator
        return np.random.RandomState(type(bits)())
    another: np.random.BitGenerator = type(_bits(generator))()
    return another


def _bits(generator: np.random.Generator | np.random.BitGenerator) -> Any:
    return generator.bit_generator if isinstance(generator, np.random.Generator) else generator
