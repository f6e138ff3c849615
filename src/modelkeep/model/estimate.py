"""How many parameters a layer has at least, from its configuration alone.

A floor, never more than the truth: what is above the budget is refused before Keras is asked for anything. The exact
count is kept by `modelkeep.model.guard` while Keras builds.
"""

import math
from collections.abc import Mapping
from typing import Any

_SIZES = {"float32": 4, "mixed_": 4, "float64": 8, "float16": 2, "bfloat16": 2}
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "SimpleRNN": 1, "SimpleRNNCell": 1}


def parameters_floor(class_name: str, config: Mapping[str, Any], build_config: Mapping[str, Any] | None) -> int:
    """The least number of values in the weights of one layer of Keras, those of layers within it not counted.

    >>> parameters_floor("Dense", {"units": 10, "use_bias": True}, {"input_shape": [None, 4]})
    50
    >>> parameters_floor("Dropout", {"rate": 0.5}, None)
    0
    """
    count = _count_values(class_name, config, build_config)
    packed = any(word in str(config.get("dtype")) for word in ("int4", "gptq", "awq"))  # several values in a byte
    return count // 8 if packed else count


def _count_values(class_name: str, config: Mapping[str, Any], build_config: Mapping[str, Any] | None) -> int:
    last = _last_axis(build_config)
    if class_name == "Dense":
        units = _count(config.get("units"))
        return units * max(last, 1) + units * (config.get("use_bias") is True)
    if class_name in {"Embedding", "ReversibleEmbedding"}:
        return _count(config.get("input_dim")) * _count(config.get("output_dim"))
    if class_name.startswith(("Conv", "SeparableConv", "DepthwiseConv")):
        return _convolution(class_name, config, last)
    if class_name in _GATES:
        units = _count(config.get("units"))
        return _GATES[class_name] * units * (units + last)
    if class_name in {"MultiHeadAttention", "GroupQueryAttention"}:
        heads = _count(config.get("num_heads") or config.get("num_query_heads"))
        return heads * _count(config.get("key_dim") or config.get("head_dim"))
    if class_name in {"MeanIoU", "OneHotMeanIoU", "IoU"}:
        return _count(config.get("num_classes")) ** 2
    return 0


def bytes_floor(parameters: int, dtype: object) -> int:
    """The least size of so many parameters under a dtype policy, given as its name or its configuration.

    >>> bytes_floor(1000, "mixed_float16"), bytes_floor(1000, "int8_from_float32")
    (4000, 1000)
    """
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        dtype = inner.get("name") or inner.get("mode") if isinstance(inner, Mapping) else None
    name = str(dtype)
    return parameters * next((size for text, size in _SIZES.items() if name.startswith(text)), 1)


def _convolution(class_name: str, config: Mapping[str, Any], channels: int) -> int:
    size = config.get("kernel_size")
    area = math.prod(_count(axis) for axis in size) if isinstance(size, list | tuple) else _count(size)
    filters = _count(config.get("filters"))
    if class_name.startswith("DepthwiseConv"):
        return area * _count(config.get("depth_multiplier")) * max(channels, 1)
    if class_name.startswith("SeparableConv"):
        return max(filters, area * _count(config.get("depth_multiplier")))
    if config.get("data_format") == "channels_first" or class_name.startswith("ConvLSTM"):
        return filters * area
    groups = max(_count(config.get("groups", 1)), 1)
    return filters * area * max(channels // groups, 1)


def _last_axis(build_config: Mapping[str, Any] | None) -> int:
    shape = (build_config or {}).get("input_shape")
    return _count(shape[-1]) if isinstance(shape, list | tuple) and shape else 0


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
