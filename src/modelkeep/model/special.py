"""The values that Keras writes as objects though they are none: tensors, arrays, slices, bytes, symbolic tensors."""

from typing import TYPE_CHECKING, Any

from modelkeep.errors import Damaged, Unsafe
from modelkeep.model.fields import check_name, check_shape

if TYPE_CHECKING:
    from modelkeep.model.walk import Walk, Where

DTYPES = {
    "float16", "float32", "float64", "bfloat16", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32",
    "int64", "bool", "int4", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
}  # fmt: skip
FLOAT = "modelkeep.float"
"""The key under which a number stands as text that JSON does not have: ``{"modelkeep.float": "-inf"}``."""

_CODE = {
    "__lambda__": "holds the byte code of a function",
    "__typespec__": "names a TensorFlow type by its module",
}


def checked(walk: "Walk", value: dict[str, Any], where: "Where", depth: int) -> dict[str, Any]:
    """Return the checked copy of one such value.

    Raises:
        Unsafe: byte code, or a type that is named by its module.
        Damaged: fields of other types than Keras writes.
    """
    name, config = value["class_name"], value["config"]
    place = walk.place((where, name))
    if name in _CODE:
        raise Unsafe(
            f"{place} {_CODE[name]}; nothing of it was run. Write the model with a named function or a layer class "
            "instead, and pass that in custom_objects"
        )
    if not isinstance(config, dict):
        raise Damaged(f"{place}: an object is wanted, not {config!r:.80}")
    if name == "__keras_tensor__":
        return {"class_name": name, "config": _symbol(walk, config, place)}
    if name in {"__tensor__", "__numpy__"}:
        if set(config) != {"value", "dtype"} or not _is_dtype(config["dtype"]):
            raise Damaged(f"{place}: an array has a value and a dtype, not {str(config.get('dtype'))!r:.80}")
        _check_numbers(config["value"], place, 64)
        return {"class_name": name, "config": walk.fields(config, (where, "config"), depth)}
    if name == "__slice__":
        if set(config) != {"start", "stop", "step"}:
            raise Damaged(f"{place}: a slice has start, stop and step")
        return {"class_name": name, "config": walk.fields(config, (where, "config"), depth)}
    if name == "__ellipsis__":
        return {"class_name": name, "config": {}}
    if name == "__bytes__" and isinstance(config.get("value"), str):
        return {"class_name": name, "config": walk.fields({"value": config["value"]}, (where, "config"), depth)}
    raise Damaged(f"{place}: no value that Keras writes")


def number(text: object, place: str) -> float:
    """The number that JSON does not have.

    >>> number("-inf", "model")
    -inf
    """
    if text not in {"inf", "-inf", "nan"}:
        raise Damaged(f"{place}: inf, -inf or nan is wanted, not {text!r:.80}")
    return float(str(text))


def _symbol(walk: "Walk", config: dict[str, Any], place: str) -> dict[str, Any]:
    shape, dtype, history = config.get("shape"), config.get("dtype"), config.get("keras_history")
    if not isinstance(shape, list | tuple) or not all(axis is None or type(axis) is int for axis in shape):
        raise Damaged(f"{place}: the shape is no list of whole numbers: {shape!r:.80}")
    check_shape(shape, walk.budget, place)
    if not (_is_dtype(dtype) or dtype == "string"):
        raise Damaged(f"{place}: the dtype is none of Keras: {dtype!r:.80}")
    if history is None:
        return {"shape": list(shape), "dtype": dtype, "keras_history": None}
    if not isinstance(history, list | tuple) or len(history) != 3:
        raise Damaged(f"{place}: the history is no layer with two numbers: {history!r:.80}")
    check_name(history[0], place)
    if not all(type(number) is int and 0 <= number < 1 << 31 for number in history[1:]):
        raise Damaged(f"{place}: the history has a number that counts nothing: {list(history)!r:.80}")
    return {"shape": list(shape), "dtype": dtype, "keras_history": list(history)}


def _is_dtype(dtype: object) -> bool:
    return isinstance(dtype, str) and dtype in DTYPES


def _check_numbers(value: object, place: str, depth: int) -> None:
    # A list of texts would make numpy take as much for each as for the longest.
    if isinstance(value, list | tuple) and depth:
        kinds = set(map(type, value))
        if kinds <= {bool, int, float}:
            return
        for item in value:
            _check_numbers(item, place, depth - 1)
    elif type(value) not in {bool, int, float}:
        raise Damaged(f"{place}: an array of numbers is wanted, not {value!r:.80}")
