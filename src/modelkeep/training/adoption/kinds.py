"""What an adopted checkpoint is known by. Each start of a run looks at it, so it imports no reader of files."""

from collections.abc import Mapping
from typing import Any

from modelkeep.store import Attempt

ADOPTED = "adopted"
"""The reason of such a checkpoint, the one part of its state, and the entry of its attempt's record."""

KERAS, TENSORFLOW, ORBAX, TORCH = "keras", "tensorflow", "orbax", "torch"


def is_adoption(attempt: Attempt) -> bool:
    """Whether an attempt computed nothing but took over a checkpoint: seed and parameters come with the next one."""
    return ADOPTED in attempt.info


def adopted_of(tree: Any) -> Mapping[str, Any] | None:
    """What was adopted, where a checkpoint's tree is that; else None."""
    return tree[ADOPTED] if isinstance(tree, dict) and tree.keys() == {ADOPTED} else None


def is_optimizer(part: object) -> bool:
    """Whether it has the form of what ``state_dict`` of a torch optimizer says.

    >>> is_optimizer({"state": {}, "param_groups": [{"params": [0, 1]}]})
    True
    """
    if not isinstance(part, Mapping) or part.keys() != {"state", "param_groups"}:
        return False
    groups = part["param_groups"]
    return (
        isinstance(part["state"], Mapping)
        and isinstance(groups, list)
        and all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups)
    )
