"""What an export may be asked beside its format."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from modelkeep.errors import UsageError
from modelkeep.exporters.serving import SIGNATURE
from modelkeep.values import Json

Quantize = Literal["dynamic", "int8", "float16", "uint8"]

_QUANTIZED: dict[str, tuple[str, ...]] = {"litert": ("dynamic", "int8", "float16"), "tfjs": ("float16", "uint8")}
_OF_FORMAT = {
    "batch": ("litert",), "quantize": ("litert", "tfjs"), "flex": ("litert",), "opset": ("onnx",),
    "signatures": ("savedmodel",),
}  # fmt: skip
_UNSAID: tuple[object, ...] = (None, False, (), [])


@dataclass(frozen=True, slots=True)
class Options:
    """The options of an export; None is the format's own choice.

    >>> Options.checked("litert", quantize="int4")
    Traceback (most recent call last):
        ...
    modelkeep.errors.UsageError: litert has no quantization 'int4', but dynamic, int8, float16
    """

    name: str = ""
    """Of the model."""
    batch: int | None = None
    """litert: the only size of the first axis; free by default."""
    quantize: Quantize | None = None
    """litert: dynamic (weights in int8), int8 (activations too, calibrated on the examples), float16 (weights).
    tfjs: float16 or uint8 (weights, on the way)."""
    flex: bool = False
    """litert: allow operations of TensorFlow that only a runtime with the Flex delegate has."""
    opset: int | None = None
    """onnx: the opset; 17 by default."""
    signatures: Sequence[str] = ()
    """savedmodel: layers, each of which has its output as a signature of its own, of that name."""

    @classmethod
    def checked(cls, format_name: str, **given: object) -> "Options":
        """The options of a format. Raises UsageError for one that it has not, or a value that there is not."""
        options = cls(**given)  # type: ignore[arg-type]  # looked at below
        for name, formats in _OF_FORMAT.items():
            if getattr(options, name) not in _UNSAID and format_name not in formats:
                raise UsageError(f"{name} is an option of {' and '.join(formats)}, not of {format_name}")
        if options.quantize is not None and options.quantize not in _QUANTIZED[format_name]:
            raise UsageError(
                f"{format_name} has no quantization {options.quantize!r:.40}, but {', '.join(_QUANTIZED[format_name])}"
            )
        if not _are_names(options.signatures) or SIGNATURE in options.signatures:
            raise UsageError(
                f"signatures are names of layers, not {options.signatures!r:.60}; {SIGNATURE} is the model"
            )
        for name, least, most in (("batch", 1, 1 << 20), ("opset", 15, 18)):
            value = getattr(options, name)
            if value is not None and (type(value) is not int or not least <= value <= most):
                raise UsageError(f"{name} is a whole number from {least} to {most}, not {value!r:.40}")
        return options

    def to_json(self) -> dict[str, Json]:
        """Those that were asked for, without the name."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"}
        given = {name: value for name, value in found.items() if value not in _UNSAID}
        return {name: list(value) if name == "signatures" else value for name, value in given.items()}


def _are_names(given: object) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(one, str) and one for one in given)


assert set(get_args(Quantize)) == {one for ways in _QUANTIZED.values() for one in ways}
