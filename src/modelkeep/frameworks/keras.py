"""Keras: all that a model, its optimizer and its metrics hold, as a state tree, and back, on any backend.

A state saved under one backend loads under another: names, shapes and dtypes are the same but for integers, whose
width Keras lets the backend choose (they may change it where every value survives).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from modelkeep.errors import UsageError
from modelkeep.frameworks import keras_arrays
from modelkeep.frameworks.keras_names import flat_layers, metric_variables, model_variables
from modelkeep.frameworks.keras_optimizer import optimizer_variables
from modelkeep.frameworks.mismatch import Fit, Path, check, leaves, nest

PARTS = ("model", "optimizer", "metrics", "replicas")
"""The parts of a Keras state."""

_FIT = Fit(
    "this Keras model",
    "build and compile it as it was when the state was taken, or load only the parts that fit",
    integers=True,
)


def state_of(model: Any, *, copy: bool = False) -> dict[str, Any]:
    """Return the state of a built model: ``{"model": ..., "optimizer": ... or None, "metrics": ...}``.

    Each part is nested dicts with one numpy array for each variable, of its dtype and shape: layers by containment
    (seed generators included), optimizer scalars and slots by model variable, metrics by name. ``optimizer`` is None
    for a model that was not compiled. On several replicas of ``tf.distribute`` there is ``replicas`` too: by part, path
    and number of the replica what may differ between them (moving averages, seeds, metrics). Without ``copy`` the
    arrays are views that later training steps do not change (copies on torch); let go of them soon, for the backend has
    to allocate anew as long as they are held. May be called from a callback in the middle of ``fit``.

    Raises:
        UnsupportedState: a variable that cannot be placed, or that has no value yet.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> state = state_of(model)
    >>> state["model"]["dense"]["kernel"].shape, int(state["optimizer"]["iterations"])
    ((3, 2), 0)
    """
    return {part: _arrays(variables, copy) for part, variables in variables_of(model).items()}


def load_into(model: Any, tree: dict[str, Any], *, parts: Sequence[str] = PARTS, given: bool = False) -> None:
    """Put a state into a built model, variable by variable, bit for bit.

    Every path, shape and dtype of the asked ``parts`` is checked first. Each replica of ``tf.distribute`` gets its own
    values where the state is of as many replicas, else all get the same. An optimizer that was not built yet is
    built when the state has more for it. The arrays are copied; those of a tree that is ``given`` away, which nobody
    changes any more, are shared where the backend can.

    Raises:
        StateMismatch: some leaf does not fit; up to 20 are listed. No variable was changed.
        UsageError: ``parts`` names something else than the parts of a Keras state.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> state = state_of(model, copy=True)
    >>> _ = model.layers[0].kernel.assign(keras.ops.zeros((3, 2)))
    >>> load_into(model, state)
    >>> state_of(model)["model"]["dense"]["kernel"].tolist() == state["model"]["dense"]["kernel"].tolist()
    True
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise UsageError(f"a Keras state has the parts {', '.join(PARTS)}, not {', '.join(unknown)}")
    found: dict[Path, object] = {}
    for part in parts:
        if tree.get(part) is not None:
            found.update(leaves(tree[part], (part,)))
    if "optimizer" in parts:
        _build_others(model, found)
    variables = _named(model, parts)
    optimizer = _optimizer(model)
    more = any(path[0] == "optimizer" and path not in variables for path in found)
    if more and optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
        variables = _named(model, parts)
    for part in ("model", "metrics"):
        replicas, ours = ({path for path in paths if path[:2] == ("replicas", part)} for paths in (found, variables))
        for path in replicas | ours if replicas != ours else ():
            found.pop(path, None), variables.pop(path, None)
    wanted = {path: keras_arrays.spec(variable) for path, variable in variables.items()}
    for path, array in check(wanted, found, _FIT).items():
        keras_arrays.write(variables[path], array, given=given)
    settle(model)


def variables_of(model: Any) -> dict[str, dict[Path, Any] | None]:
    """Return the variables of each part by path, with the values of this moment (jax keeps them aside in ``fit``).

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> variables_of(model)["model"][("dense", "bias")] is model.layers[0].bias
    True
    """
    if keras.backend.backend() == "jax" and isinstance(model, keras.Model):
        model.jax_state_sync()
    found = model_variables(model)
    optimizer = _optimizer(model)
    named = None
    if optimizer is not None:
        paths = {id(variable): path for path, variable in found.items()}
        named = optimizer_variables(optimizer, paths)
        for name, other in other_optimizers(model).items():
            placed = optimizer_variables(other, paths)
            named |= {("others", name, *path): variable for path, variable in placed.items()}
    parts = {"model": found, "optimizer": named, "metrics": metric_variables(model)}
    replicas = _replicas(parts)
    return {**parts, "replicas": replicas} if replicas else parts


def _replicas(parts: Mapping[str, Mapping[Path, Any] | None]) -> dict[Path, Any]:
    """What may differ between the replicas of ``tf.distribute``, which are updated each by itself."""
    if keras.backend.backend() != "tensorflow":
        return {}
    from modelkeep.frameworks.tensorflow import replicas_of

    return {
        (part, *path, str(number)): value
        for part in ("model", "metrics")
        for path, variable in (parts[part] or {}).items()
        for number, value in enumerate(replicas_of(keras_arrays.value_of(variable)))
    }


def _named(model: Any, parts: Sequence[str]) -> dict[Path, Any]:
    return {
        (part, *path): variable
        for part, variables in variables_of(model).items()
        if part in parts and variables is not None
        for path, variable in variables.items()
    }


def _arrays(variables: dict[Path, Any] | None, copy: bool) -> dict[str | int, Any] | None:
    if variables is None:
        return None
    return nest({path: keras_arrays.read(variable, copy=copy) for path, variable in variables.items()})


def other_optimizers(model: Any) -> dict[str, Any]:
    """The optimizers of a model beside that of ``compile``, as a ``train_step`` of one's own has them, each once.

    By attribute (``critic_optimizer``), attribute and key where they are in a list or dict (``optimizers.0``), and
    number of the layer where one inside has them (``layers.3.optimizer``).
    """
    found: dict[int, tuple[str, Any]] = {id(_optimizer(model)): ("", None)}
    for number, layer in enumerate(flat_layers(model)):
        if type(layer).__module__.startswith("keras.src.layers."):
            continue  # a save waits for this, and Keras' own layers have none
        prefix = f"layers.{number}." if number else ""
        own = {name: value for name, value in vars(layer).items() if not name.startswith("_self_")}  # of TensorFlow
        for name, value in own.items():
            for key, one in _optimizers_in(value):
                found.setdefault(id(one), (f"{prefix}{name}{key}", one))
    return {name: one for name, one in found.values() if one is not None}


def _optimizers_in(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, keras.optimizers.Optimizer):
        return [("", value)]
    if isinstance(value, dict):
        entries = list(value.items())
    else:
        entries = list(enumerate(value)) if isinstance(value, list | tuple) else []
    return [(f".{key}", one) for key, one in entries if isinstance(one, keras.optimizers.Optimizer)]


def _build_others(model: Any, found: dict[Path, object]) -> None:
    """They are built by their first step, for the variables that they train: as the state has them."""
    placed = model_variables(model)
    for name, other in other_optimizers(model).items():
        slots = {path[5:] for path in found if path[:4] == ("optimizer", "others", name, "slots")}
        if slots and not other.built:
            other.build([variable for path, variable in placed.items() if path in slots])


def _optimizer(model: Any) -> Any:
    return getattr(model, "optimizer", None)


def settle(model: Any) -> None:
    """Let layers draw their conclusions from weights that were just loaded (Normalization computes with copies)."""
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
