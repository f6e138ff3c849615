"""A torch module as the contents of a version; its class is the caller's to bring when it is loaded."""

from typing import Any

import torch

from modelkeep.errors import UsageError
from modelkeep.frameworks import torch as torch_door
from modelkeep.model.contents import answered, architecture_part, examples_part, mapped
from modelkeep.model.signature import Signature


def contents(module: Any, example: Any) -> dict[str, Any]:
    """The state tree of a version; see `modelkeep.model.contents.Contents.of`."""
    if example is None:
        raise UsageError("a torch module does not tell what it takes and gives; pass example=x[:4]")
    given = answered(example, lambda inputs: answers(module, inputs))
    kind = type(module)
    return {
        # a word for people: no class is ever imported by it
        "architecture": architecture_part(
            {"format": 1, "framework": "torch", "class": f"{kind.__module__}.{kind.__qualname__}"}
        ),
        "signature": Signature.of_arrays(given.inputs, given.outputs).to_json(),
        "model": torch_door.state_of(module),
        "examples": examples_part(given),
    }


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
