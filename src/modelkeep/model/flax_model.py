"""A flax module (nnx) as the contents of a version; its class is the caller's to bring when it is loaded."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from modelkeep.frameworks import jax as jax_door
from modelkeep.model.contents import mapped, module_parts


def contents(module: Any, example: Any) -> dict[str, Any]:
    """The state tree of a version; see `modelkeep.model.contents.Contents.of`."""
    weights = jax_door.state_of(function(module)[0], copy=True)
    return module_parts(type(module), "flax", weights, example, lambda inputs: answers(module, inputs))


def load_into(module: Any, tree: Any) -> None:
    """Put the variables of a state tree into a module. Raises StateMismatch, and the module is as it was."""
    state = nnx.state(module, nnx.Not(nnx.RngState))
    nnx.replace_by_pure_dict(state, jax_door.restore(nnx.to_pure_dict(state), tree))
    nnx.update(module, state)


def answers(module: Any, inputs: Any) -> Any:
    """What the module gives in evaluation mode for ``inputs``: one array, a tuple of arguments, or a dict of them.

    A copy is asked, so that the module is as it was.
    """
    parameters, apply = function(module)
    return mapped(apply(parameters, mapped(inputs, jnp.asarray)), lambda leaf: jax_door.state_of(leaf, copy=True))


def function(module: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
    """A module in evaluation mode as jax has it: its variables, nested by name, and a function of them and of inputs.

    The state of its random streams is no variable of a model, and stays what it is.
    """
    graph, *states = nnx.split(module, nnx.RngState, nnx.Not(nnx.RngState))
    randomness, state = states

    def apply(parameters: Any, inputs: Any) -> Any:
        filled = jax.tree.map(lambda one: one, state)
        nnx.replace_by_pure_dict(filled, parameters)
        merged = nnx.merge(graph, randomness, filled)
        merged.eval()
        if isinstance(inputs, dict):
            return merged(**inputs)
        return merged(*inputs) if isinstance(inputs, tuple | list) else merged(inputs)

    return nnx.to_pure_dict(state), apply
