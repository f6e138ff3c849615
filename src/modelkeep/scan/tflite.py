"""TFLite: custom operations, TensorFlow's own behind Flex, data kept outside the file."""

from collections.abc import Iterator

from modelkeep.scan import zips
from modelkeep.scan.findings import Finding, damaged
from modelkeep.scan.source import Context, Source, leaves_folder
from modelkeep.scan.tensorflow_ops import FORBIDDEN, known

_IDENTIFIER = b"TFL3"
_CUSTOM = 32
_LARGEST = 2 << 30
_BUILT_IN = {
    "TFLite_Detection_PostProcess", "AudioSpectrogram", "Mfcc", "NumericVerify", "RFFT2D", "Convolution2DTransposeBias",
    "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "TransformTensorBilinear", "Landmarks2TransformMatrix",
}  # fmt: skip
"""Custom operations that the interpreter or MediaPipe has built in."""


def looks_like(source: Source) -> bool:
    """Whether it has the identifier of TFLite's flatbuffers."""
    return source.read(4, 4) == _IDENTIFIER


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of one model, and of the zip archive that may follow it (its metadata: labels, vocabularies)."""
    context.budget.check("nbytes", source.size, source.name)
    data = source.read(0, min(source.size, _LARGEST))
    try:
        found = [*_of_operators(data, source), *_of_external(data, source), *_of_buffers(data, source)]
    except (ValueError, IndexError) as error:
        return [damaged(source.name, f"it is no flatbuffer of TFLite ({error})")]
    if zips.reads_as_zip(source):
        about = zips.findings(source, context)
        found.extend(one for one in about if "bytes before the archive" not in one.what)
    return found


def _of_operators(data: bytes, source: Source) -> Iterator[Finding]:
    for code in _tables(data, _root(data), 1):
        builtin = max(_number(data, code, 0, 1), _number(data, code, 3, 4))
        name = _text(data, code, 1)
        if builtin != _CUSTOM or name in _BUILT_IN:
            continue
        op = name.removeprefix("Flex")
        if name.startswith("Flex") and op in FORBIDDEN:
            yield Finding(source.name, f"the operation {op} of TensorFlow", "unsafe", FORBIDDEN[op], "do not run it")
        elif not (name.startswith("Flex") and op in known()):
            why = "it is none of TFLite's: a library of native code has to be loaded for it"
            yield Finding(source.name, f"the custom operation {name}", "suspicious", why, "ask its author what it does")


def _of_external(data: bytes, source: Source) -> Iterator[Finding]:
    for group in _tables(data, _root(data), 8):
        name = _text(data, group, 0)
        if leaves_folder(name):
            why = "loading opens a file outside the model's folder"
            yield Finding(source.name, f"reads its values from {name[:200]}", "unsafe", why, "do not load it")


def _of_buffers(data: bytes, source: Source) -> Iterator[Finding]:
    for index, buffer in enumerate(_tables(data, _root(data), 4)):
        offset, size = _number(data, buffer, 1, 8), _number(data, buffer, 2, 8)
        if offset > 1 and offset + size > source.size:
            yield damaged(source.name, f"buffer {index} ends behind the end of the file")


def _root(data: bytes) -> int:
    return _at(data, 0, 4)


def _at(data: bytes, position: int, count: int) -> int:
    if position < 0 or position + count > len(data):
        raise ValueError(f"an offset to byte {position:,} of {len(data):,}")
    return int.from_bytes(data[position : position + count], "little")


def _field(data: bytes, table: int, index: int) -> int:
    """Where a field of a table lies, or 0 when the table has none."""
    signed = int.from_bytes(_at(data, table, 4).to_bytes(4, "little"), "little", signed=True)
    vtable = table - signed
    if 4 + 2 * index + 2 > _at(data, vtable, 2):
        return 0
    offset = _at(data, vtable + 4 + 2 * index, 2)
    return table + offset if offset else 0


def _number(data: bytes, table: int, index: int, count: int) -> int:
    position = _field(data, table, index)
    return _at(data, position, count) if position else 0


def _text(data: bytes, table: int, index: int) -> str:
    position = _field(data, table, index)
    if not position:
        return ""
    start = position + _at(data, position, 4)
    length = _at(data, start, 4)
    _at(data, start + 4 + length, 0)
    return data[start + 4 : start + 4 + min(length, 4096)].decode("utf-8", "replace")


def _tables(data: bytes, table: int, index: int) -> Iterator[int]:
    position = _field(data, table, index)
    if not position:
        return
    vector = position + _at(data, position, 4)
    count = _at(data, vector, 4)
    _at(data, vector + 4 + 4 * count, 0)
    for number in range(count):
        place = vector + 4 + 4 * number
        yield place + _at(data, place, 4)
