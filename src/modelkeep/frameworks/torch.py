"""PyTorch: modules, optimizers, schedulers, scalers, generators and any trees of tensors as a state tree."""

from typing import Any

import torch

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks import torch_modules, torch_optimizers, torch_tensors, trees
from modelkeep.frameworks.mismatch import Fit, Path, Plan, Spec, show
from modelkeep.frameworks.torch_stateful import Stateful, plan_stateful, stateful_state
from modelkeep.frameworks.torch_tensors import dtype_of, from_numpy, to_numpy

__all__ = ["dtype_of", "from_numpy", "load_into", "state_of", "to_numpy"]

_FIT = Fit("these torch objects", "make them as they were when the state was taken")
_WAY_OUT = "pass tensors, modules, optimizers, schedulers, generators, plain values and dicts and lists of them"


def state_of(obj: object, *, copy: bool = False) -> Any:
    """Return the state of a torch object, or of a tree of them, with a numpy array for each tensor.

    Modules become nested dicts by submodule (``encoder/layers/0/weight``), optimizers and schedulers what their
    ``state_dict`` says (parameter ids stay ints), a generator its device and bytes. Anything else with ``state_dict``
    and ``load_state_dict`` goes the same way. Wrappers (``DataParallel``, ``torch.compile``) are looked through.
    Arrays are always copies of the tensors' bits, for torch updates in place: read-only ones, whose memory the next
    state gets when they are gone; with ``copy`` writable ones of their own. Tied weights are one array under two paths.

    Raises:
        UnsupportedState: a leaf that cannot be kept bit for bit; the message says where.

    >>> model = torch.nn.Linear(3, 2)
    >>> state = state_of({"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "step": 0})
    >>> state["model"]["weight"].shape, state["optimizer"]["param_groups"][0]["params"]
    ((2, 3), [0, 1])
    """
    found = trees.read(obj, _read_leaf)
    return trees.read(found, _read_leaf) if copy else found  # reading a state copies its arrays


def load_into(obj: object, tree: Any) -> None:
    """Put a state back in place: tensors keep their identity, device, strides and ``requires_grad``.

    Optimizer slots come back in the dtype in which they were saved.

    Raises:
        StateMismatch: a path, dtype or shape differs; up to 20 are listed, and nothing was changed. (What an object's
            own ``load_state_dict`` raises beyond that passes through.)
        UnsupportedState: ``obj`` holds a leaf that a state cannot.

    >>> weight = torch.zeros(2)
    >>> load_into({"w": weight}, state_of({"w": torch.ones(2)}))
    >>> weight
    tensor([1., 1.])
    """
    todo = Plan(_FIT)
    trees.plan(obj, tree, _plan_leaf, todo)
    todo.carry_out()


def _read_leaf(obj: object, path: Path) -> object:
    obj = torch_modules.unwrapped(obj)
    try:
        if isinstance(obj, torch.Tensor):
            return to_numpy(obj)
        if isinstance(obj, torch.Generator):
            return {"device": obj.device.type, "state": to_numpy(obj.get_state())}
        if isinstance(obj, torch.nn.Module):
            return torch_modules.module_state(obj, _read_leaf, path)
        if isinstance(obj, torch.optim.Optimizer):
            return torch_optimizers.optimizer_state(obj, _read_leaf, path)
    except UnsupportedState as error:
        if str(error).startswith(f"{show(path)}"):
            raise
        raise UnsupportedState(f"{show(path)}: {error}") from error
    if isinstance(obj, Stateful) and not isinstance(obj, type):
        return stateful_state(obj, _read_leaf, path)
    raise trees.unsupported(obj, path, _WAY_OUT)


def _plan_leaf(obj: object, tree: object, path: Path, todo: Plan) -> None:
    obj = torch_modules.unwrapped(obj)
    if isinstance(obj, torch.Tensor):
        _plan_tensor(obj, tree, path, todo)
    elif isinstance(obj, torch.Generator):
        _plan_generator(obj, tree, path, todo)
    elif isinstance(obj, torch.nn.Module):
        torch_modules.plan_module(obj, tree, path, todo)
    elif isinstance(obj, torch.optim.Optimizer):
        torch_optimizers.plan_optimizer(obj, tree, path, todo)
    elif isinstance(obj, Stateful) and not isinstance(obj, type):
        plan_stateful(obj, tree, path, todo)
    else:
        raise trees.unsupported(obj, path, _WAY_OUT)


def _plan_tensor(tensor: torch.Tensor, tree: object, path: Path, todo: Plan) -> None:
    array = todo.array(Spec(dtype_of(tensor), tuple(tensor.shape)), tree, path)
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        todo.refuse(path, "wanted a tensor to write into, but this one is expanded; pass its base")
    elif array is not None:
        todo.write(tensor, array, path, lambda: torch_tensors.assign(tensor, array))


def _plan_generator(generator: torch.Generator, tree: object, path: Path, todo: Plan) -> None:
    found = tree.get("device") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or found != generator.device.type:
        todo.refuse(path, f"wanted the state of a {generator.device.type} generator, found that of {found}")
        return
    now = to_numpy(generator.get_state())
    array = todo.array(Spec(now.dtype, now.shape), tree.get("state"), (*path, "state"))
    if array is not None:
        todo.do(lambda: generator.set_state(from_numpy(array)))
