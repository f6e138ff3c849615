"""A version, back as a model: its architecture is walked and built within a budget, and its weights are checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, NotExact, UnknownFormat, UsageError
from modelkeep.model.contents import mapped
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.canonical import parse_json
from modelkeep.state import flatten
from modelkeep.store import Store
from modelkeep.values import Json

_TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""What answers may differ by, relative to the largest one, on another machine or backend."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a version should be loaded."""

    custom_objects: Mapping[str, Any] | None = None
    compiled: bool = False
    into: Any = None
    check: bool = False
    budget: Budget | None = None


def load_version(store: Store, snapshot: Snapshot, wish: Wish | None = None) -> Any:
    """Load a version, or a checkpoint that can be one; see `modelkeep.load_model`."""
    wish = wish or Wish()
    there = snapshot.structure if isinstance(snapshot.structure, dict) else {}
    if "architecture" not in there or "model" not in there:
        raise UsageError(
            f"snapshot {snapshot.short} holds no model but a state; keep.load_state(...) gives that, and the "
            "framework's load_into puts it into a model of yours"
        )
    budget = wish.budget or Budget()
    architecture = architecture_of(store, snapshot, budget)
    wanted = ["model/**", *(["optimizer/**"] if wish.compiled and there.get("optimizer") is not None else [])]
    tree = store.load(snapshot, select=wanted, limit_bytes=budget.nbytes)
    framework = architecture.get("framework", "keras")
    model = _loaded(str(framework), architecture, tree, wish, budget)
    if wish.check:
        _check(store, snapshot, model, str(framework), budget)
    return model


def architecture_of(store: Store, snapshot: Snapshot, budget: Budget) -> dict[str, Json]:
    """The architecture that a snapshot holds, parsed and nothing more. Raises Damaged, LimitExceeded."""
    text = store.load(snapshot, select=["architecture"], limit_bytes=budget.text)["architecture"]
    if not isinstance(text, bytes):
        raise Damaged(f"snapshot {snapshot.short} has an architecture that is not the bytes of a JSON document")
    budget.check("text", len(text), f"the architecture of snapshot {snapshot.short}")
    document = parse_json(text, max_depth=budget.depth)
    if not isinstance(document, dict):
        raise Damaged(f"the architecture of snapshot {snapshot.short} is no JSON object")
    return document


def _keras(architecture: dict[str, Json], tree: dict[str, Any], wish: Wish, budget: Budget) -> Any:
    from modelkeep.frameworks import keras as keras_door
    from modelkeep.model import keras_model

    if wish.into is not None:
        keras_door.load_into(wish.into, tree, parts=("model",), given=True)
        return wish.into
    return keras_model.rebuilt(
        architecture, tree, custom_objects=wish.custom_objects, compiled=wish.compiled, budget=budget
    )


def _module(framework: str, architecture: dict[str, Json], tree: dict[str, Any], wish: Wish) -> Any:
    if wish.into is None:
        raise UsageError(
            f"this is a {framework} module of the class {architecture.get('class')!s:.200}, which is never imported by "
            "its name; import it, and pass into=YourModule(...)"
        )
    if framework == "torch":
        from modelkeep.frameworks import torch as torch_door

        torch_door.load_into(wish.into, tree["model"])
    else:
        from modelkeep.model import flax_model

        flax_model.load_into(wish.into, tree["model"])
    return wish.into


def _jax(tree: dict[str, Any], wish: Wish) -> Any:
    if wish.into is None:
        raise UsageError("these are the parameters of a jax function; pass into=PARAMS, a pytree of the same structure")
    from modelkeep.frameworks import jax as jax_door

    return jax_door.restore(wish.into, tree["model"])


def _loaded(framework: str, architecture: dict[str, Json], tree: dict[str, Any], wish: Wish, budget: Budget) -> Any:
    match framework:
        case "keras":
            return _keras(architecture, tree, wish, budget)
        case "torch" | "flax":
            return _module(framework, architecture, tree, wish)
        case "jax":
            return _jax(tree, wish)
        case "weights":
            raise UsageError(
                "this version holds weights without an architecture, as their file did; build the model, and call "
                "mk.transfer(model, REF), which says what went where"
            )
        case _:
            raise UnknownFormat(f"the framework {framework!r:.60} is not known; a newer modelkeep may read it")


def _check(store: Store, snapshot: Snapshot, model: Any, framework: str, budget: Budget) -> None:
    """Ask the examples again. Raises UsageError where there are none, NotExact where an answer differs."""
    if not isinstance(snapshot.structure, dict) or "examples" not in snapshot.structure or framework == "jax":
        what = "is a jax function, which modelkeep cannot ask" if framework == "jax" else "has no examples"
        raise UsageError(f"snapshot {snapshot.short} {what}; leave check=True out, or publish it with example=x[:4]")
    examples = store.load(snapshot, select=["examples/**"], limit_bytes=budget.nbytes)["examples"]
    found = flatten(mapped(_answers(model, examples["inputs"], framework), np.asarray)).arrays
    for path, wanted in flatten(examples["outputs"]).arrays.items():
        fault = difference(wanted, found.get(path))
        if fault:
            raise NotExact(
                f"the model answers its examples otherwise than when it was published: {path or 'the output'} {fault}; "
                "look at the versions of the framework, or leave check=True out"
            )


def _answers(model: Any, inputs: Any, framework: str) -> Any:
    if framework == "torch":
        from modelkeep.model import torch_model

        return torch_model.answers(model, inputs)
    if framework == "flax":
        from modelkeep.model import flax_model

        return flax_model.answers(model, inputs)
    from modelkeep.model import keras_model

    return keras_model.answers(model, inputs)


def difference(wanted: Any, found: Any) -> str:
    """How two answers differ, beyond what another machine explains; nothing where they do not."""
    if found is None or (wanted.shape, wanted.dtype) != (found.shape, found.dtype):
        there = "is not there" if found is None else f"is {found.dtype} {list(found.shape)}"
        return f"{there}, and {wanted.dtype} {list(wanted.shape)} was recorded"
    if wanted.dtype.name not in _TOLERANCES:
        return "" if np.array_equal(wanted, found) else "has other values"
    one, other = wanted.astype("float64"), found.astype("float64")
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one))) or 1.0
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return "has NaN in other places"
    gap = float(np.max(np.abs(one - other), initial=0.0, where=np.isfinite(one) & np.isfinite(other)))
    infinite = np.array_equal(one[np.isinf(one)], other[np.isinf(one)])
    limit = _TOLERANCES[wanted.dtype.name] * scale
    return "" if gap <= limit and infinite else f"differs by {gap:.3g}, and {limit:.3g} is tolerated"
