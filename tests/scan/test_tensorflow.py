"""SavedModels, graphs and TFLite: what reaches files or Python is found in every function; real ones are clean."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from modelkeep.scan import scan

TEXT = tf.TensorSpec([], tf.string)


def save(body, path, spec=TEXT):
    module = tf.Module()
    module.run = tf.function(body, input_signature=[spec])
    tf.saved_model.save(module, str(path))
    return path


def table(name):
    made = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    tf.raw_ops.InitializeTableFromTextFileV2(table_handle=made, filename=name, key_index=-2, value_index=-1)
    return tf.raw_ops.LookupTableFindV2(table_handle=made, keys=["a"], default_value=tf.constant(0, tf.int64))


@tf.function
def inner(name):
    return tf.io.read_file(name)


HOSTILE = {
    "reads a file": lambda x: tf.io.read_file(x),
    "reads a file in a nested function": lambda x: inner(x),
    "reads a file in a branch": lambda x: tf.cond(tf.equal(x, "a"), lambda: tf.io.read_file(x), lambda: x),
    "writes a file": lambda x: (tf.io.write_file("/tmp/x", x), x)[1],
    "lists files": lambda x: tf.io.matching_files(x),
    "prints into a file": lambda x: (tf.print(x, output_stream="file:///tmp/scan-x"), x)[1],
    "calls Python": lambda x: tf.py_function(lambda y: y, [x], tf.string),
    "calls Python through numpy": lambda x: tf.numpy_function(lambda y: y, [x], tf.string),
    "a vocabulary elsewhere": lambda x: table("/etc/passwd"),
    "a vocabulary that the caller names": lambda x: table(x),
    "a vocabulary whose name is put together": lambda x: table(tf.strings.join(["/etc/", "passwd"])),
    "restores from a path": lambda x: tf.raw_ops.RestoreV2(
        prefix="/tmp/other", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0],
    "saves to a path": lambda x: (
        tf.raw_ops.SaveV2(prefix="../x", tensor_names=["a"], shape_and_slices=[""], tensors=[x]), x
    )[1],
    "a dataset of files": lambda x: tf.data.TextLineDataset(x).reduce("", lambda a, b: a + b),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_saved_model_that_reaches_files_or_python_is_unsafe(case, tmp_path):
    report = scan(save(HOSTILE[case], tmp_path / "m"))
    assert report.verdict == "unsafe"
    assert report.findings[0].where.startswith("saved_model.pb ")


def edited(path, change):
    file = path / "saved_model.pb"
    proto = SavedModel.FromString(file.read_bytes())
    change(proto.meta_graphs[0])
    file.write_bytes(proto.SerializeToString())
    return path


def test_an_operation_that_tensorflow_does_not_have_is_said(tmp_path):
    path = save(lambda x: tf.identity(x), tmp_path / "m")
    edited(path, lambda meta: meta.graph_def.node.add(name="mine", op="MyOwnOp"))
    (found,) = scan(path).findings
    assert (found.severity, found.what) == ("suspicious", "the custom operation MyOwnOp")


def test_a_saved_model_that_is_cut_short_is_damaged(tmp_path):
    file = save(lambda x: tf.identity(x), tmp_path / "m") / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-50])
    assert scan(file).verdict == "damaged"


# Clean


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a\nb\nc\n")
    return path


def with_table(vocabulary, path):
    module = tf.Module()
    reader = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, -2, tf.int64, -1)
    module.table = tf.lookup.StaticHashTable(reader, -1)
    module.run = tf.function(module.table.lookup, input_signature=[TEXT])
    tf.saved_model.save(module, str(path))
    return path


def test_a_table_that_is_read_from_an_asset_is_clean(vocabulary, tmp_path):
    path = with_table(vocabulary, tmp_path / "m")
    assert [one.name for one in (path / "assets").iterdir()] == ["words.txt"]
    assert b"InitializeTableFromTextFileV2" in (path / "saved_model.pb").read_bytes()
    assert scan(path).findings == ()


def test_an_asset_outside_the_folder_is_unsafe(vocabulary, tmp_path):
    path = with_table(vocabulary, tmp_path / "m")
    edited(path, lambda meta: setattr(meta.asset_file_def[0], "filename", "../../../etc/passwd"))
    assert scan(path).verdict == "unsafe"
    edited(path, lambda meta: setattr(meta.asset_file_def[0], "filename", "absent.txt"))
    assert scan(path).verdict == "damaged"


def test_a_vocabulary_named_by_a_variable_of_the_model_is_unsafe(vocabulary, tmp_path):
    """There is an asset too, so that a scan which is content with that is led astray."""
    module = tf.Module()
    reader = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, -2, tf.int64, -1)
    module.table = tf.lookup.StaticHashTable(reader, -1)
    module.name_of_file = tf.Variable("/etc/passwd")
    module.run = tf.function(lambda x: table(module.name_of_file), input_signature=[TEXT])
    tf.saved_model.save(module, str(tmp_path / "m"))
    assert scan(tmp_path / "m").verdict == "unsafe"


def test_a_vocabulary_whose_name_the_graph_completes_is_unsafe(vocabulary, tmp_path):
    module = tf.Module()
    reader = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, -2, tf.int64, -1)
    module.table = tf.lookup.StaticHashTable(reader, -1)
    module.run = tf.function(lambda x: table(tf.strings.join([x, "passwd"])), input_signature=[TEXT])
    tf.saved_model.save(module, str(tmp_path / "m"))
    assert scan(tmp_path / "m").verdict == "unsafe"


def network():
    words = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    words.adapt(np.array(["a b c", "b c d"]))
    text = keras.Input((1,), dtype="string", name="text")
    out = keras.layers.Dense(2)(keras.layers.LSTM(4)(keras.layers.Embedding(20, 8)(words(text))))
    return keras.Model(text, out)


def test_exports_of_keras_with_text_inside_are_clean(tmp_path):
    network().export(tmp_path / "m", verbose=False)
    report = scan(tmp_path / "m")
    assert report.findings == ()


def test_saved_models_of_keras_and_of_modules_are_clean(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5)])
    tf.saved_model.save(model, str(tmp_path / "a"))
    module = tf.Module()
    module.weight = tf.Variable(tf.ones((3, 2)))
    module.run = tf.function(lambda x: x @ module.weight, input_signature=[tf.TensorSpec([None, 3])])
    tf.saved_model.save(module, str(tmp_path / "b"))
    save(lambda x: (tf.print(x), tf.strings.length(x))[1], tmp_path / "c")
    save(lambda x: tf.while_loop(lambda a: a < 3, lambda a: a + 1, [x])[0], tmp_path / "d", tf.TensorSpec([]))
    tf.train.Checkpoint(module=module).save(str(tmp_path / "checkpoint" / "x"))
    assert scan(tmp_path).findings == ()


def frozen(op):
    graph = tf.Graph()
    with graph.as_default():
        op(tf.compat.v1.placeholder(tf.string, []))
    return graph.as_graph_def().SerializeToString()


def test_frozen_graphs_are_read(scanned):
    report = scanned(frozen(tf.io.read_file), "frozen.pb")
    assert (report.kind, report.verdict) == ("TensorFlow graph", "unsafe")
    report = scanned(frozen(tf.strings.length), "frozen.pb")
    assert (report.kind, report.verdict) == ("TensorFlow graph", "clean")
    GraphDef.FromString(frozen(tf.strings.length))


def test_the_metadata_of_keras_2_beside_a_saved_model_are_read(scanned):
    def field(number, data):
        size, head = len(data), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes([*head, size]) + data

    config = b'{"class_name": "Lambda", "config": {"function": ["4wA=", null, null], "function_type": "lambda"}}'
    data = field(1, field(3, b"root") + field(4, b"_tf_keras_layer") + field(5, config))
    assert scanned(data, "keras_metadata.pb").verdict == "unsafe"
    good = field(
        1, field(3, b"root") + field(4, b"_tf_keras_layer") + field(5, b'{"class_name": "Dense", "config": {}}')
    )
    assert scanned(good, "keras_metadata.pb").findings == ()


# TFLite


@pytest.fixture(scope="module")
def converted():
    body = tf.function(lambda x: tf.nn.softmax(x @ tf.ones((3, 2))), input_signature=[tf.TensorSpec([1, 3])])
    return tf.lite.TFLiteConverter.from_concrete_functions([body.get_concrete_function()]).convert()


def rewritten(data, change):
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    change(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_custom(name):
    def change(model, schema):
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, name
        model.operatorCodes.append(code)

    return change


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("MyOp", "suspicious"), ("FlexReadFile", "unsafe"), ("FlexPyFunc", "unsafe"), ("FlexMine", "suspicious"),
     ("FlexErf", "clean"), ("TFLite_Detection_PostProcess", "clean")],
)  # fmt: skip
def test_custom_operations_of_tflite_are_judged(name, verdict, converted, scanned):
    report = scanned(rewritten(converted, with_custom(name)), "m.tflite")
    assert (report.kind, report.verdict) == ("TFLite model", verdict)


def test_models_of_tflite_are_clean_with_and_without_metadata_behind(converted, zipped, scanned):
    assert scanned(converted, "m.tflite").findings == ()
    assert scanned(converted + zipped({"labels.txt": b"a\nb\n"}), "m.tflite").findings == ()
    assert scanned(converted + zipped({"x.bin": b"cos\nsystem\n(S'true'\ntR."}), "m.tflite").verdict == "unsafe"


def test_tflite_data_outside_the_folder_are_unsafe(converted, scanned):
    def change(model, schema):
        group = schema.ExternalBufferGroupT()
        group.name = "/etc/passwd"
        model.externalBufferGroups = [group]

    assert scanned(rewritten(converted, change), "m.tflite").verdict == "unsafe"


def test_tflite_that_is_cut_or_flipped_never_breaks_the_scan(converted, scanned):
    random = np.random.default_rng(0)
    assert scanned(converted[:100], "m.tflite").verdict == "damaged"
    for _ in range(300):
        data = bytearray(converted)
        data[random.integers(8, len(data))] ^= 1 << int(random.integers(8))
        scanned(bytes(data), "m.tflite")
