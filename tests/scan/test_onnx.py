"""ONNX: values from outside the folder and operations outside the standard are found, however deep they lie."""

import pytest

from modelkeep.scan import scan


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def part(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(**external):
    entries = b"".join(part(13, part(1, key) + part(2, str(value))) for key, value in external.items())
    return (
        number(1, 3) + number(2, 1) + part(8, "weight") + entries + (number(14, 1) if external else part(9, b"\0" * 12))
    )


def node(op, domain="", *attributes):
    return part(1, "x") + part(2, "y") + part(3, f"{op}_0") + part(4, op) + b"".join(attributes) + (
        part(7, domain) if domain else b""
    )  # fmt: skip


def graph(*nodes, initializers=()):
    return b"".join(part(1, one) for one in nodes) + part(2, "main") + b"".join(part(5, one) for one in initializers)


def model(main, functions=()):
    return (
        number(1, 10) + part(2, "pytorch") + part(7, main) + part(8, part(1, "") + number(2, 21))
        + b"".join(part(25, one) for one in functions)
    )  # fmt: skip


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "file:///etc/passwd", "C:\\x", "..\\x"])
def test_values_outside_the_folder_are_unsafe(location, scanned):
    for main in (
        graph(node("Relu"), initializers=[tensor(location=location)]),
        graph(node("Constant", "", part(5, part(1, "value") + part(5, tensor(location=location))))),
        graph(
            node("If", "", part(5, part(1, "then_branch") + part(6, graph(initializers=[tensor(location=location)]))))
        ),
    ):
        report = scanned(model(main), "m.onnx")
        assert (report.kind, report.verdict) == ("ONNX model", "unsafe")


def test_values_through_a_link_or_a_device_are_unsafe(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model(graph(node("Relu"), initializers=[tensor(location="w.bin")])))
    assert scan(path).verdict == "damaged"
    (tmp_path / "w.bin").symlink_to("/etc/passwd")
    assert scan(path).verdict == "unsafe"
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").write_bytes(b"\0" * 12)
    assert scan(path).verdict == "clean"
    path.write_bytes(model(graph(node("Relu"), initializers=[tensor(location="w.bin", offset=8, length=12)])))
    assert scan(path).verdict == "damaged"


def test_operations_outside_the_standard_are_said_in_every_subgraph(scanned):
    loop = node("Loop", "", part(5, part(1, "body") + part(6, graph(node("Mine", "my.domain")))))
    for main in (graph(node("Mine", "my.domain")), graph(node("NoSuchOp")), graph(loop)):
        assert scanned(model(main), "m.onnx").verdict == "suspicious"


def test_functions_of_the_model_and_of_onnxruntime_are_clean(scanned):
    function = part(1, "Mine") + part(7, node("Relu")) + part(10, "my.domain")
    assert scanned(model(graph(node("Mine", "my.domain")), [function]), "m.onnx").findings == ()
    assert scanned(model(graph(node("FusedMatMul", "com.microsoft"))), "m.onnx").findings == ()
    hidden = part(1, "Mine") + part(7, node("Other", "evil")) + part(10, "my.domain")
    assert scanned(model(graph(node("Mine", "my.domain")), [hidden]), "m.onnx").verdict == "suspicious"


def test_graphs_within_graphs_end_somewhere(scanned):
    main = graph(node("Relu"))
    for _ in range(300):
        main = graph(node("If", "", part(5, part(1, "then_branch") + part(6, main))))
    assert scanned(model(main), "m.onnx").verdict == "limit"


def test_a_model_that_is_cut_short_is_damaged_and_none_breaks_the_scan(scanned):
    data = model(graph(node("Relu"), initializers=[tensor()]))
    for size in range(12, len(data)):
        assert scanned(data[:size], "m.onnx").verdict in {"damaged", "clean"}


def test_models_of_the_real_library_are_clean(scanned, tmp_path):
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    weight = onnx.numpy_helper.from_array(__import__("numpy").ones((3, 2), "float32"), "w")
    value = make.make_tensor_value_info
    main = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"]), make.make_node("Softmax", ["y"], ["z"])], "main",
        [value("x", 1, [1, 3])], [value("z", 1, [1, 2])], [weight],
    )  # fmt: skip
    made = make.make_model(main)
    assert scanned(made.SerializeToString(), "m.onnx").findings == ()
    onnx.save(made, tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    assert scan(tmp_path / "e.onnx").findings == ()
