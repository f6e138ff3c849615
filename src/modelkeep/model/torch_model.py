"""A torch module as the contents of a version; its class is the caller's to bring when it is loaded."""

from typing import Any

import torch

from modelkeep.frameworks import torch as torch_door
from modelkeep.model.contents import mapped, module_parts


def contents(module: Any, example: Any) -> dict[str, Any]:
    """The state tree of a version; see `modelkeep.model.contents.Contents.of`."""
    weights = torch_door.state_of(module)
    return module_parts(type(module), "torch", weights, example, lambda inputs: answers(module, inputs))


def answers(module: Any, inputs: Any) -> Any:
    """What the module gives in evaluation mode for ``inputs``: one tensor, a tuple of arguments, or a dict of them."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            tensors = mapped(inputs, torch_door.from_numpy)
            if isinstance(tensors, tuple):
                found = module(*tensors)
            else:
                found = module(**tensors) if isinstance(tensors, dict) else module(tensors)
    finally:
        module.train(was_training)
    return mapped(found, torch_door.to_numpy)
