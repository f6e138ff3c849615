"""An adopted state into the objects of a program, when it starts: only they tell which array belongs where."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelkeep.errors import StateMismatch, UsageError
from modelkeep.frameworks.mismatch import Path, leaves, nest, show
from modelkeep.frameworks.trees import kind_of
from modelkeep.training.adoption.kinds import KERAS, ORBAX, TENSORFLOW, TORCH, is_optimizer
from modelkeep.training.doors import door_of, homes

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Placed:
    """The state of a loop with what was adopted in it; ``anew``: the parts that the file does not have."""

    state: Any
    anew: tuple[str, ...]


def place_in_keras(model: Any, adopted: State) -> None:
    """Put an adopted state into a built and compiled Keras model and its optimizer.

    Raises:
        StateMismatch: it does not fit, or is no state of Keras; nothing was changed.
    """
    kind, state = adopted["kind"], adopted["state"]
    if kind == KERAS:
        from modelkeep.frameworks.keras_files import load_named

        load_named({"": model}, state)
        return
    import keras

    if kind == TENSORFLOW and keras.backend.backend() == "tensorflow":
        from modelkeep.frameworks import tensorflow_graph

        objects = {"model": model, "optimizer": model.optimizer}
        _tell_unused(tensorflow_graph.load_named(objects, state))
        return
    raise StateMismatch(
        f"a checkpoint of {kind} was adopted, and mk.keras.fit on {keras.backend.backend()} goes on from files of "
        "Keras, or on tensorflow from tf.train.Checkpoint(model=…, optimizer=…); use run.checkpoints in your own loop"
    )


def begun_epoch(adopted: State, step: int, length: int | None) -> int:
    """The epoch to begin with, where an epoch has ``length`` steps: as it was told, else as many as ``step`` fills.

    Raises:
        UsageError: they end inside one, or the data do not tell their length.
    """
    if adopted["epoch"] is not None:
        return int(adopted["epoch"])
    epochs, rest = divmod(step, length) if length else (0, 1)
    if rest:
        raise UsageError(
            f"the adopted checkpoint has done {step} steps, and an epoch has {length or 'an unknown number'} here, so "
            "its epoch is not known; adopt it again with --epoch N (epoch=N)"
        )
    return epochs


def place_in_loop(state: Any, adopted: State) -> Placed:
    """Put an adopted state into what a loop gives to ``restore``; objects are filled where they are.

    Raises:
        StateMismatch: it does not fit; nothing was changed.
        UsageError: ``state`` is no dict with a name for each part.
    """
    kind, found = adopted["kind"], adopted["state"]
    if kind == ORBAX:
        return _place_orbax(state, found)
    if not isinstance(state, dict):
        raise UsageError(f"restore takes a dict with a name for each part here, not {type(state).__name__}")
    return _PLACES[kind](state, found)


def _place_keras(state: dict[str, Any], found: State) -> Placed:
    """Into the one Keras model, and the one optimizer, of a loop."""
    import keras

    from modelkeep.frameworks.keras_files import load_named

    models = [name for name, part in state.items() if isinstance(part, keras.layers.Layer)]
    optimizers = [name for name, part in state.items() if isinstance(part, keras.optimizers.Optimizer)]
    if len(models) != 1 or len(optimizers) > 1:
        raise StateMismatch(f"a file of Keras goes into one model and one optimizer; there are {models + optimizers}")
    parts = {"": state[models[0]]} | ({"optimizer": state[optimizers[0]]} if optimizers else {})
    has_optimizer = any(name.startswith("optimizer/") for name in found)
    if has_optimizer and not optimizers and getattr(parts[""], "optimizer", None) is None:
        raise StateMismatch("the file has an optimizer, and the state has none; give restore the optimizer too")
    load_named(parts, found)
    anew = [name for name in state if name not in models and not (name in optimizers and has_optimizer)]
    return Placed(state, tuple(anew))


def _place_tensorflow(state: dict[str, Any], found: State) -> Placed:
    """By the names of ``tf.train.Checkpoint``, made of the parts of the state under their names here."""
    from modelkeep.frameworks import tensorflow_graph

    objects = {name: part for name, part in state.items() if homes(part) & {"tensorflow", "keras"}}
    values = {name: part for name, part in state.items() if name not in objects}
    taken = {name: _fitting(name, found[name], part) for name, part in values.items() if name in found}
    left = tensorflow_graph.load_named(objects, found)
    state.update(taken)
    _tell_unused([name for name in left if name not in values])
    return Placed(state, tuple(name for name in values if name not in found))


def _place_torch(state: dict[str, Any], found: State) -> Placed:
    """Each part from the entry of its name, else from the only one that fits; a file may be one state dict itself."""
    from modelkeep.frameworks import torch as torch_door
    from modelkeep.frameworks.torch_modules import names_of, nested

    modules = {name: names for name, part in state.items() if (names := names_of(part)) is not None}
    fits = {name: _like_module(modules[name]) if name in modules else _like(part) for name, part in state.items()}
    tree = {name: _plain(found[entry], state[name]) for name, entry in _entries(state, found, fits).items()}
    if len(modules) == 1 and not tree.keys() & modules.keys():
        tree |= {name: found for name in modules if fits[name](found)}  # the file is one state dict
    missing = [name for name in modules if name not in tree]
    if missing:
        raise StateMismatch(
            f"the file has nothing for {', '.join(missing)} of the state, and nothing was changed; it has "
            f"{', '.join(map(str, found))!s:.300}: name the parts as there"
        )
    wrong = [name for name in tree if not _has_form(tree[name], state[name], is_module=name in modules)]
    if wrong:
        raise StateMismatch(f"what the file has for {', '.join(wrong)} is no state dict; nothing was changed")
    for name, names in modules.items():
        tree[name] = nested(_unprefixed(tree[name], names))
    objects = {name: state[name] for name in tree}
    torch_door.load_into(objects, tree)
    state.update(objects)
    return Placed(state, tuple(name for name in state if name not in tree))


_WORDS = ("", "_state_dict", "_state", "_dict", "_state_dicts")
_USUAL = ("model_state_dict", "model", "state_dict", "net", "module", "optimizer_state_dict", "optimizer")


def _entries(state: State, found: State, fits: Mapping[str, Callable[[Any], bool]]) -> dict[str, str]:
    """For each part the entry that is called as it is, else the only one that fits and that no other part can claim.

    Where several fit, the one with a usual name is meant.
    """
    named = {name: f"{name}{word}" for name in state for word in reversed(_WORDS) if f"{name}{word}" in found}
    left = [entry for entry in found if entry not in named.values()]
    possible = {name: [entry for entry in left if fits[name](found[entry])] for name in state if name not in named}
    wanted = {
        name: entries if len(entries) == 1 else [word for word in _USUAL if word in entries][:1]
        for name, entries in possible.items()
    }
    claims = [entry for entries in wanted.values() for entry in entries]
    return named | {name: entries[0] for name, entries in wanted.items() if entries and claims.count(entries[0]) == 1}


def _like_module(names: Sequence[str]) -> Callable[[Any], bool]:
    def fits(entry: Any) -> bool:
        return isinstance(entry, Mapping) and bool(names) and set(_unprefixed(entry, names)) == set(names)

    return fits


def _like(part: Any) -> Callable[[Any], bool]:
    """Whether an entry is what ``state_dict`` of such an object says; of plain values only the name tells."""
    if not hasattr(part, "state_dict"):
        return lambda _: False
    now = part.state_dict()
    if not is_optimizer(now):
        return lambda entry: isinstance(entry, Mapping) and bool(now) and entry.keys() == now.keys()
    sizes = [len(group["params"]) for group in now["param_groups"]]
    return lambda entry: is_optimizer(entry) and [len(group["params"]) for group in entry["param_groups"]] == sizes


def _unprefixed(entry: State, names: Sequence[str]) -> State:
    """A state dict without what wrappers (DistributedDataParallel, torch.compile) put in front of each name."""
    for prefix in ("module.", "_orig_mod."):
        if entry and all(str(one).startswith(prefix) for one in entry) and not any(n.startswith(prefix) for n in names):
            entry = {str(one).removeprefix(prefix): part for one, part in entry.items()}
    return entry


def _has_form(entry: Any, part: Any, *, is_module: bool) -> bool:
    """Whether an entry has the form that ``load_state_dict`` of such a part takes; a file may have anything there."""
    if is_module:
        return isinstance(entry, Mapping) and all(isinstance(name, str) for name in entry)
    return is_optimizer(entry) if hasattr(part, "param_groups") else True


def _plain(value: Any, like: Any) -> Any:
    """A number out of an array without axes, where the state has a plain number of that very value."""
    if isinstance(like, bool | int | float) and isinstance(value, np.ndarray) and value.ndim == 0:
        number = type(like)(value.item())
        return number if number == value.item() else value
    return value


def _fitting(name: str, value: Any, like: Any) -> Any:
    """A plain value or an array for one that the state has. Raises StateMismatch where it is of another kind."""
    value = _plain(value, like)
    same = type(value) is type(like)
    if same and isinstance(like, np.ndarray):
        same = (value.dtype, value.shape) == (like.dtype, like.shape)
    if not same:
        raise StateMismatch(f"{name}: wanted {kind_of(like)}, found {kind_of(value)}; nothing was changed")
    return value


def _place_orbax(state: Any, found: State) -> Placed:
    """Each leaf of a pytree by its path; variables of flax lie one deeper where ``nnx.State`` was saved."""
    door = door_of(state)
    tree = leaves(door.take(state))
    names = {path: name for path in tree if (name := _orbax_name(path, found)) is not None}
    keys = {path for path in tree if (*path[:-1], "key_data") in tree}  # Orbax keeps them in a form of its own
    missing = [show(path) for path in tree if path not in names and path not in keys]
    if missing:
        raise StateMismatch(
            f"the checkpoint has nothing for {', '.join(missing)!s:.500} of the state, and nothing was changed; it has "
            f"{', '.join(found)!s:.500}: name the parts as there"
        )
    values = {path: _plain(found[names[path]], leaf) if path in names else leaf for path, leaf in tree.items()}
    restored = door.put(state, nest(values))
    _tell_unused([name for name in found if name not in names.values()])
    return Placed(restored, tuple(show(path[:-1]) for path in keys if path not in names and path[-1] == "key_data"))


def _orbax_name(path: Path, found: State) -> str | None:
    name = "/".join(str(step) for step in path)
    return next((one for one in (name, f"{name}/value") if one in found), None)


def _tell_unused(names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        warnings.warn(f"of what was adopted nothing here asks for {shown}", RuntimeWarning, stacklevel=4)


_PLACES: dict[str, Callable[[dict[str, Any], State], Placed]] = {
    KERAS: _place_keras,
    TENSORFLOW: _place_tensorflow,
    TORCH: _place_torch,
}
