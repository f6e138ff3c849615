"""The state of a torch optimizer: its ``state_dict``, slots in the dtype in which they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from modelkeep.frameworks import trees
from modelkeep.frameworks.mismatch import Path, Plan, Spec
from modelkeep.frameworks.torch_stateful import as_before, plain_numbers
from modelkeep.frameworks.torch_tensors import dtype_of, from_numpy

_LIKE_THE_PARAMETER = frozenset(
    (
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer"),
        *("sum", "square_avg", "grad_avg", "acc_delta", "prev", "step_size"),
    )
)
"""Slots that all optimizers mean element by element: their shape is the parameter's."""


def optimizer_state(optimizer: torch.optim.Optimizer, read_leaf: trees.ReadLeaf, path: Path) -> dict[str, Any]:
    """Return ``{"state": {parameter id: {slot: array or value}}, "param_groups": [...]}``; the ids are ints."""
    state: dict[str, Any] = trees.read(plain_numbers(optimizer.state_dict()), read_leaf, path)
    return state


def plan_optimizer(optimizer: torch.optim.Optimizer, tree: object, path: Path, todo: Plan) -> None:
    """Plan ``load_state_dict``: the groups must hold as many parameters as now, and slots must fit their parameter."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("state"), Mapping):
        todo.refuse(path, f"wanted the state of a {type(optimizer).__name__}, found {trees.kind_of(tree)}")
        return
    now = optimizer.state_dict()
    sizes = [len(group["params"]) for group in now["param_groups"]]
    found_sizes = [len(group["params"]) for group in tree.get("param_groups", [])]
    if sizes != found_sizes:
        todo.refuse((*path, "param_groups"), f"wanted groups of {sizes} parameters, found {found_sizes}")
        return
    parameters = _by_saved_id(optimizer, tree)
    for key, slots in tree["state"].items():
        where = (*path, "state", key)
        if key in parameters and isinstance(slots, Mapping):
            _plan_slots(parameters[key], optimizer.state.get(parameters[key], {}), slots, where, todo)
    todo.do(lambda: _load(optimizer, tree, now))


def _by_saved_id(optimizer: torch.optim.Optimizer, tree: Mapping[str, Any]) -> dict[Any, torch.Tensor]:
    saved = [key for group in tree["param_groups"] for key in group["params"]]
    current = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return dict(zip(saved, current, strict=True))


def _plan_slots(
    parameter: torch.Tensor, now: Mapping[str, Any], slots: Mapping[str, Any], where: Path, todo: Plan
) -> None:
    for name, value in slots.items():
        if not isinstance(value, np.ndarray | np.generic):
            continue
        current = now.get(name)
        if isinstance(current, torch.Tensor):
            todo.array(Spec(dtype_of(current), tuple(current.shape)), value, (*where, name))
        elif name in _LIKE_THE_PARAMETER:
            todo.array(Spec(np.asarray(value).dtype, tuple(parameter.shape)), value, (*where, name))


def _load(optimizer: torch.optim.Optimizer, tree: Mapping[str, Any], now: dict[str, Any]) -> None:
    state = as_before(tree, now)
    optimizer.load_state_dict(state)
    for key, parameter in _by_saved_id(optimizer, tree).items():
        for name, saved in tree["state"].get(key, {}).items():
            slot = optimizer.state[parameter].get(name)
            # torch casts slots to the dtype of the parameter: float32 moments of a bfloat16 weight would lose bits.
            if isinstance(slot, torch.Tensor) and isinstance(saved, np.ndarray) and dtype_of(slot) != saved.dtype:
                optimizer.state[parameter][name] = from_numpy(saved).to(slot.device)
