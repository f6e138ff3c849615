import struct
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, NotFound, UnknownFormat, Unsafe
from modelkeep.importers import open_weights

DTYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11, "uint32": 12, "uint64": 13, "complex64": 14, "complex128": 15, "bfloat16": 16, "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20,
}  # fmt: skip
LISTS = {"float32": 4, "complex64": 4, "int64": 7, "float64": 10, "complex128": 10, "uint32": 11, "uint64": 11}


def varint(value):
    value &= (1 << 64) - 1
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def part(number, data):
    """A field: a number, or bytes."""
    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name, array, how="raw", **external):
    """A TensorProto: its values as ``raw`` bytes, a ``list`` of numbers, or outside."""
    kind = array.dtype.name
    made = b"".join(part(1, axis) for axis in array.shape) + part(2, DTYPES[kind]) + part(8, name)
    if external:
        facts = b"".join(part(13, part(1, key) + part(2, str(value))) for key, value in external.items())
        return made + facts + part(14, 1)
    if how == "raw":
        return made + part(9, array.tobytes())
    number = LISTS.get(kind, 5)
    if number in (4, 10):
        return made + part(number, array.tobytes())
    whole = array.reshape(-1)
    if array.dtype.kind not in "iu":  # the bits of a small number stand in the low bits of an int32
        whole = whole.view(f"u{array.dtype.itemsize}")
    return made + part(number, b"".join(varint(int(value)) for value in whole))


def model(*tensors):
    return part(1, 8) + part(2, "a test") + part(7, b"".join(part(5, one) for one in tensors) + part(2, "graph"))


def values(kind):
    custom = getattr(ml_dtypes, kind, kind)
    return np.random.default_rng(1).integers(0, 2, (3, 4)).astype(custom)


@pytest.mark.parametrize("how", ["raw", "list"])
def test_every_dtype_has_its_bits(tmp_path, how):
    (tmp_path / "x.onnx").write_bytes(model(*(tensor(kind, values(kind), how) for kind in DTYPES)))
    weights = open_weights(tmp_path / "x.onnx")
    assert weights.format == "onnx"
    assert list(weights.tensors) == list(DTYPES)
    for kind, got in weights.tensors.items():
        assert (got.dtype, got.shape) == (kind, (3, 4))
        assert got.read().tobytes() == values(kind).tobytes(), kind


def test_what_torch_exports_has_the_weights_that_torch_has(tmp_path):
    pytest.importorskip("onnx", reason="torch exports with the package onnx, which is not installed")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, torch.ones(1, 1, 4, 4), str(tmp_path / "x.onnx"), dynamo=False)
    weights = open_weights(tmp_path / "x.onnx")
    assert weights.metadata["producer_name"] == "pytorch"
    for name, value in net.state_dict().items():
        assert weights.tensors[name].read().tobytes() == value.numpy().tobytes()


def test_values_beside_the_model_are_read_and_others_are_not(tmp_path):
    array = values("float32")
    (tmp_path / "w.bin").write_bytes(bytes(16) + array.tobytes())
    (tmp_path / "x.onnx").write_bytes(model(tensor("w", array, location="w.bin", offset=16, length=48)))
    assert open_weights(tmp_path / "x.onnx").tensors["w"].read().tobytes() == array.tobytes()
    for place in ("../w.bin", "/etc/passwd", "a/../../w.bin", ""):
        (tmp_path / "x.onnx").write_bytes(model(tensor("w", array, location=place)))
        with pytest.raises(Unsafe):
            open_weights(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(model(tensor("w", array, location="none.bin")))
    with pytest.raises(NotFound):
        open_weights(tmp_path / "x.onnx")
    for facts in ({"offset": 20}, {"offset": -1}, {"length": 47}, {"offset": "x"}):
        (tmp_path / "x.onnx").write_bytes(model(tensor("w", array, location="w.bin", **facts)))
        with pytest.raises(Damaged):
            open_weights(tmp_path / "x.onnx")


def test_shapes_are_compared_with_the_bytes_that_are_there(tmp_path):
    lying = part(1, 1 << 40) + part(2, 1) + part(8, "w") + part(9, bytes(16))
    (tmp_path / "x.onnx").write_bytes(model(lying))
    with pytest.raises(Damaged):
        open_weights(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(model(tensor("w", values("float32"))))
    with pytest.raises(LimitExceeded):
        open_weights(tmp_path / "x.onnx", Budget(nbytes=40))


def test_what_packs_several_values_in_a_byte_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(model(part(1, 2) + part(2, 22) + part(8, "w") + part(9, struct.pack("B", 3))))
    with pytest.raises(UnknownFormat):
        open_weights(tmp_path / "x.onnx")
