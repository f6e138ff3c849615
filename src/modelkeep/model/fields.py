"""Fields that mean the same in every class of Keras: their types, names, shapes, counts of loops, and paths."""

import math
import re
from collections.abc import Sequence
from typing import Any

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, Unsafe

LOOPS = 10_000
"""The most rounds of a Python loop inside Keras that a configuration may ask for."""
RANK = 64
"""The most axes of a shape."""

_COUNTS = {
    "units", "filters", "input_dim", "output_dim", "num_heads", "key_dim", "value_dim", "depth_multiplier", "groups",
    "num_query_heads", "num_key_value_heads", "head_dim", "num_tokens", "num_classes", "max_tokens", "num_bins",
    "vocabulary_size", "n", "top_k", "lora_rank",
}  # fmt: skip
_FLAGS = {
    "use_bias", "trainable", "return_sequences", "return_state", "go_backwards", "stateful", "unroll", "center",
    "scale", "mask_zero", "pad_to_max_tokens", "sparse", "ragged", "invert", "keepdims", "flash_attention",
}  # fmt: skip
_MAYBE = {"scale", "sparse", "trainable", "flash_attention", "ragged", "n"}  # another type, or none, in some classes
_ROUNDS = {
    "num_thresholds", "num_ops", "num_chains", "chain_depth", "power_iterations", "bins", "ns_steps",
    "num_grid_points", "max_boxes", "max_number",
}  # fmt: skip
_OPENING = {
    "filepath", "file_path", "filename", "fname", "file", "path", "url", "uri", "origin", "directory", "dir_path",
    "vocabulary_path", "weights_path", "call_endpoint", "file_pattern", "cache_dir",
}  # fmt: skip
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://")


def check_field(name: str, value: Any, where: str) -> None:
    """Check one field of a class of Keras.

    Raises:
        Unsafe: a field that names a file or an address to open, or a text that is one.
        LimitExceeded: a loop of more rounds than `LOOPS`.
        Damaged: another type than the field has in every class.

    >>> check_field("units", "64", "model.config.units")
    Traceback (most recent call last):
        ...
    modelkeep.errors.Damaged: model.config.units: a whole number is wanted, not '64'
    """
    if name in _OPENING and value is not None:
        raise Unsafe(f"{where}: names something to open, {value!r:.120}; nothing was opened, and Keras need not")
    if isinstance(value, str) and _URL.match(value):
        raise Unsafe(f"{where}: is an address, {value!r:.120}; nothing was opened, and no layer needs one")
    if name == "name" and value is not None:
        check_name(value, where)
    elif name in _COUNTS and value is not None and name not in _MAYBE:
        if type(value) is not int:
            raise Damaged(f"{where}: a whole number is wanted, not {value!r:.80}")
    elif name in _FLAGS and name not in _MAYBE and type(value) is not bool and value is not None:
        raise Damaged(f"{where}: true or false is wanted, not {value!r:.80}")
    if name in _ROUNDS:
        _check_rounds(value, where)


def check_name(name: object, where: str) -> None:
    """Refuse the name of a layer that is no name: longer than 512, a path, or with control characters.

    >>> check_name("../../evil", "model.name")
    Traceback (most recent call last):
        ...
    modelkeep.errors.Unsafe: model.name: the name '../../evil' is a path
    """
    if not isinstance(name, str) or not 0 < len(name) <= 512 or not name.isprintable():
        raise Damaged(f"{where}: a name of at most 512 printable characters is wanted, not {name!r:.80}")
    if "/" in name or "\\" in name or name in {".", ".."}:
        raise Unsafe(f"{where}: the name {name!r:.80} is a path")


def check_shape(shape: Sequence[int | None], budget: Budget, where: str) -> None:
    """Check a declared shape: whole numbers or nothing, at most `RANK` axes, and one sample within the budget.

    >>> check_shape([None, 1 << 20, 1 << 20, 1 << 20], Budget(nbytes=1 << 30), "model.batch_shape")
    Traceback (most recent call last):
        ...
    modelkeep.errors.LimitExceeded: model.batch_shape: 1,152,921,504,606,846,976 bytes of arrays, and the budget has \
1,073,741,824; if you trust its source, raise it: Budget(nbytes=1152921504606846976)
    """
    if len(shape) > RANK:
        raise LimitExceeded(f"{where}: a shape of {len(shape):,} axes, more than {RANK}")
    if any(axis is not None and axis < -1 for axis in shape):
        raise Damaged(f"{where}: a shape has a negative axis: {list(shape)!r:.120}")
    budget.check("nbytes", math.prod(abs(axis) for axis in shape if axis), where)


def _check_rounds(value: Any, where: str) -> None:
    if isinstance(value, int) and value > LOOPS:
        raise LimitExceeded(f"{where}: a loop of {value:,} rounds, and the most is {LOOPS:,}")
