"""Which framework's door the state of a loop goes through; how objects of Keras, flax, equinox and Grain are opened."""

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from modelkeep.errors import UsageError


class InPlace:
    """The door of a framework whose objects are changed where they are."""

    def __init__(self, framework: str) -> None:
        self._framework = framework

    def take(self, state: Any) -> Any:
        """The state tree of a loop's state."""
        return self._door().state_of(_opened(state))

    def put(self, state: Any, tree: Any) -> Any:
        """Put a state tree into a loop's state, and return it. Raises StateMismatch, and nothing was changed."""
        opened = _opened(state)
        self._door().load_into(opened, tree)
        return _closed(state, opened)

    def _door(self) -> Any:
        return import_module(f"modelkeep.frameworks.{self._framework}")


class Jax:
    """The door of pytrees, which are made anew; flax and Keras objects among them get their new arrays in place."""

    def take(self, state: Any) -> Any:
        """The state tree of a loop's state."""
        from modelkeep.frameworks import jax

        return jax.state_of(self._opened(state))

    def put(self, state: Any, tree: Any) -> Any:
        """A loop's state with the leaves of a state tree. Raises StateMismatch, and nothing was changed."""
        from jax.tree import map as mapped

        from modelkeep.frameworks import jax

        restored = jax.restore(self._opened(state), tree)
        return mapped(_filled, state, restored, is_leaf=_is_object)

    def _opened(self, state: Any) -> Any:
        from jax.tree import map as mapped

        return mapped(lambda leaf: _variables(leaf) if _is_object(leaf) else leaf, state, is_leaf=_is_object)


def door_of(state: Any) -> InPlace | Jax:
    """By what is in the state: jax arrays, torch's objects, TensorFlow's, else numpy's; Keras' objects by its backend.

    Raises UsageError where two frameworks meet.
    """
    found = {home for leaf in _leaves(state) for home in _frameworks(leaf)}
    if len(found) > 1:
        raise UsageError(f"the state has objects of {' and '.join(sorted(found))}; keep each in a run of its own")
    framework = found.pop() if found else "numpy"
    return Jax() if framework == "jax" else InPlace(framework)


def homes(leaf: Any) -> set[str]:
    """The packages of the classes of an object."""
    return {cls.__module__.partition(".")[0] for cls in type(leaf).__mro__}


_FRAMEWORKS = {"torch": "torch", "torchdata": "torch", "tensorflow": "tensorflow", "flax": "jax", "equinox": "jax"}


def _frameworks(leaf: Any) -> set[str]:
    found = homes(leaf)
    if "keras" in found:
        import keras

        return {str(keras.backend.backend())}
    if "jax" in sys.modules:
        import jax

        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return {"jax"}
    return {_FRAMEWORKS[one] for one in found & _FRAMEWORKS.keys()}


def _leaves(state: Any) -> list[Any]:
    """What is in dicts, lists and tuples, and in the pytrees that only jax can open."""
    if isinstance(state, Mapping):
        return [leaf for part in state.values() for leaf in _leaves(part)]
    if isinstance(state, list | tuple):
        return [leaf for part in state for leaf in _leaves(part)]
    if "jax" in sys.modules and not _is_object(state):
        import jax

        return list(jax.tree.leaves(state, is_leaf=_is_object))
    return [state]


def _is_object(leaf: Any) -> bool:
    """Whether it is an object of Keras, flax (nnx) or equinox that holds variables, or an iterator of Grain."""
    found = homes(leaf)
    if "grain" in found:
        return hasattr(leaf, "set_state")
    if "keras" in found:
        return hasattr(leaf, "variables") or hasattr(leaf, "assign")
    return "equinox" in found or any(cls.__module__ == "flax.nnx.pytreelib" for cls in type(leaf).__mro__)


def _variables(leaf: Any) -> Any:
    """What such an object holds: variables, of Keras by their paths, of flax nested by name, of equinox as a module.

    Of an iterator its place, as text or bytes.
    """
    found = homes(leaf)
    if "grain" in found:
        place = leaf.get_state()
        return place if isinstance(place, bytes) else json.dumps(place)
    if "keras" in found:
        return _keras_variables(leaf)
    if "flax" in found:
        from flax import nnx

        return nnx.to_pure_dict(nnx.state(leaf))
    import jax

    return jax.tree.map(lambda one: None if callable(one) else one, leaf)


def _filled(leaf: Any, restored: Any) -> Any:
    """Such an object with the arrays of ``restored``, which has the form of `_variables`; another leaf gives way."""
    if not _is_object(leaf):
        return restored
    found = homes(leaf)
    if "grain" in found:
        leaf.set_state(restored if isinstance(restored, bytes) else json.loads(restored))
        return leaf
    if "keras" in found:
        if not hasattr(leaf, "variables"):
            leaf.assign(restored)
            return leaf
        for one in leaf.variables:
            one.assign(restored[one.path])
        return leaf
    if "flax" in found:
        from flax import nnx

        state = nnx.state(leaf)
        nnx.replace_by_pure_dict(state, restored)
        nnx.update(leaf, state)
        return leaf
    import jax

    parts, structure = jax.tree.flatten(leaf)
    arrays = iter(jax.tree.leaves(restored))
    return jax.tree.unflatten(structure, [one if callable(one) else next(arrays) for one in parts])


def _keras_variables(leaf: Any) -> Any:
    if not hasattr(leaf, "variables"):
        return leaf.value
    if getattr(leaf, "built", True) is False:
        way = "optimizer.build(model.trainable_variables)" if hasattr(leaf, "apply_gradients") else "call it once"
        raise UsageError(f"{type(leaf).__name__} has no variables before it is built; {way} before restore")
    found = {one.path: one.value for one in leaf.variables}
    if len(found) != len(leaf.variables):
        raise UsageError(f"two variables of {type(leaf).__name__} have the same path; name its layers apart")
    return found


def _opened(state: Any) -> Any:
    """A state in which the variables of the backend stand for Keras' objects, and a text for Grain's."""
    if isinstance(state, dict):
        return {name: _opened(part) for name, part in state.items()}
    if isinstance(state, list):
        return [_opened(part) for part in state]
    if isinstance(state, tuple):
        return tuple(_opened(part) for part in state)
    return _variables(state) if _is_object(state) else state


def _closed(state: Any, opened: Any) -> Any:
    """What `_opened` was given, with the plain values that were put into its dicts and lists."""
    if isinstance(state, dict | list):
        for key in state if isinstance(state, dict) else range(len(state)):
            state[key] = _closed(state[key], opened[key])
        return state
    if isinstance(state, tuple):
        parts = [_closed(part, other) for part, other in zip(state, opened, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if "grain" in homes(state):
        return _filled(state, opened)
    return state if _is_object(state) else opened
