"""Hostile architectures: each is JSON that an attacker could put into ``config.json``, made here, never kept as a file.

A case is (what must be raised, the JSON, the budget). Those that are known attacks on Keras carry their number.
"""

import base64
import marshal
import pickle
from collections.abc import Callable, Iterator
from typing import Any

MIB = 1 << 20
SMALL = {"nbytes": 64 * MIB}


class Bomb:
    """Pickles to a call that writes into the canary."""

    def __reduce__(self):
        return (exec, ("open('canary', 'a').write('pickle ran')",))


def made(
    name: str, /, module: str | None = "keras.layers", *, build: Any = None, registered: Any = None, **config: Any
) -> dict[str, Any]:
    found = {"module": module, "class_name": name, "config": config, "registered_name": registered}
    return found if build is None else {**found, "build_config": {"input_shape": build}}


def function(name: Any, module: str | None = "builtins", registered: Any = "function") -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered}


def entrance(*shape: Any, dtype: str = "float32") -> dict[str, Any]:
    return made("InputLayer", batch_shape=[None, *shape], dtype=dtype, name="entrance")


def dense(**config: Any) -> dict[str, Any]:
    return made("Dense", **{"units": 2, **config})


def sequential(*layers: Any, **config: Any) -> dict[str, Any]:
    return made("Sequential", "keras", name="model", layers=list(layers), **config)


def after_input(*layers: Any, width: int = 4) -> dict[str, Any]:
    return sequential(entrance(width), *layers)


def tensor(layer: Any = "entrance", node: Any = 0, part: Any = 0, shape: Any = (None, 4)) -> dict[str, Any]:
    config = {"shape": list(shape), "dtype": "float32", "keras_history": [layer, node, part]}
    return {"class_name": "__keras_tensor__", "config": config}


def called(layer: dict[str, Any], name: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    layer = {**layer, "config": {"name": name, **layer["config"]}}
    return {**layer, "name": name, "inbound_nodes": [{"args": list(args), "kwargs": kwargs}]}


def graph(*layers: Any, output: str = "d") -> dict[str, Any]:
    first = {**entrance(4), "name": "entrance", "inbound_nodes": []}
    config = {"input_layers": [["entrance", 0, 0]], "output_layers": [[output, 0, 0]]}
    return made("Functional", "keras", name="model", layers=[first, *layers], **config)


def compiled(**config: Any) -> dict[str, Any]:
    return {"format": 1, "model": after_input(dense()), "compile": {"optimizer": "sgd", "loss": "mse", **config}}


def described(*vocabularies: Any, model: Any = None) -> dict[str, Any]:
    return {"format": 1, "model": model or after_input(dense()), "vocabularies": list(vocabularies)}


def byte_code() -> dict[str, Any]:
    code = compile("open('canary', 'a').write('byte code ran')", "attack", "eval")
    text = base64.b64encode(marshal.dumps(code)).decode()
    return {"class_name": "__lambda__", "config": {"code": text, "defaults": None, "closure": None}}


def pickled() -> str:
    return base64.b64encode(pickle.dumps(Bomb())).decode()


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = dense()
    for number in range(levels):
        inner = made("Sequential", "keras", name=f"level{number}", layers=[inner])
    return inner


def lists(levels: int) -> Any:
    inner: Any = 1
    for _ in range(levels):
        inner = [inner]
    return inner


def backwards(count: int) -> dict[str, Any]:
    layers = [
        called(dense(), f"d{number}", tensor(f"d{number - 1}" if number else "entrance")) for number in range(count)
    ]
    return graph(*reversed(layers), output="d0")


Case = tuple[str, Callable[[], Any], dict[str, int]]


def cases() -> dict[str, Case]:
    """Every case by its name."""
    found: dict[str, Case] = {}
    for group in (calls(), gadgets(), lookups(), names(), sizes(), shapes(), graphs(), types(), compilations()):
        for name, error, make, *budget in group:
            assert name not in found, name
            found[name] = (error, make, budget[0] if budget else SMALL)
    return found


def calls() -> Iterator[Any]:
    """Functions and classes that are no part of a model."""
    system = made("system", "os", command="touch canary")
    yield "CVE-2025-1550 a class of the system", "Unsafe", lambda: after_input(system)
    yield (
        "CVE-2025-1550 a function of the system",
        "Unsafe",
        lambda: after_input(dense(activation=function("system", "os"))),
    )
    yield "a builtin that evaluates", "Unsafe", lambda: after_input(dense(activation=function("eval")))
    yield "a builtin that executes", "Unsafe", lambda: after_input(dense(kernel_initializer=function("exec")))
    yield (
        "a class that starts processes",
        "Unsafe",
        lambda: after_input(made("Popen", "subprocess", args=["touch", "canary"])),
    )
    yield "a class of builtins", "Unsafe", lambda: after_input(made("type", "builtins", name="x"))
    yield "a module that lies beside the program", "NotFound", lambda: after_input(made("Layer", "evil_module"))
    yield (
        "a function of a module that lies beside",
        "NotFound",
        lambda: after_input(dense(activation=function("go", "evil_module"))),
    )
    yield (
        "a module within a module",
        "NotFound",
        lambda: after_input(made("Layer", "evil_module.inner", registered="evil>Layer")),
    )
    yield "a relative module", "NotFound", lambda: after_input(made("Layer", "..evil_module"))
    yield "a package that Keras would import", "NotFound", lambda: after_input(made("Layer", "keras_hub.evil"))
    yield "the model itself is a call", "Unsafe", lambda: made("system", "os", command="touch canary")
    yield "CVE-2025-8747 get_file", "Unsafe", lambda: after_input(dense(activation=function("get_file", "keras.utils")))
    yield (
        "get_file by where it is defined",
        "Unsafe",
        lambda: after_input(made("get_file", "keras.src.utils.file_utils", origin="file:///etc/hostname")),
    )
    yield (
        "get_file with its arguments",
        "Unsafe",
        lambda: after_input(
            made("Lambda", function=function("get_file", "keras.utils"), arguments={"origin": "http://127.0.0.1:9/x"})
        ),
    )
    yield (
        "CVE-2025-9906 safe mode off, then a lambda",
        "Unsafe",
        lambda: after_input(
            dense(activation=function("enable_unsafe_deserialization", "keras.config")),
            made("Lambda", function=byte_code()),
        ),
    )
    yield (
        "safe mode off as a class",
        "Unsafe",
        lambda: after_input(made("enable_unsafe_deserialization", "keras.config")),
    )
    yield (
        "load_model as a function",
        "Unsafe",
        lambda: after_input(dense(kernel_initializer=function("load_model", "keras.saving"))),
    )
    yield "load_model as a class", "Unsafe", lambda: after_input(made("load_model", "keras.models", filepath="canary"))
    yield "load_img", "Unsafe", lambda: after_input(dense(activation=function("load_img", "keras.utils")))
    yield "a registrar", "Unsafe", lambda: after_input(made("register_keras_serializable", "keras.saving", package="x"))
    yield "a callback", "Unsafe", lambda: after_input(made("LambdaCallback", "keras.callbacks"))
    yield (
        "a remote monitor",
        "Unsafe",
        lambda: after_input(made("RemoteMonitor", "keras.callbacks", root="http://127.0.0.1:9")),
    )
    yield (
        "an editor of files",
        "Unsafe",
        lambda: after_input(made("KerasFileEditor", "keras.saving", filepath="canary")),
    )
    yield "an archive", "Unsafe", lambda: after_input(made("ExportArchive", "keras.export"))
    yield "a data set", "Unsafe", lambda: after_input(made("PyDataset", "keras.utils"))
    yield "a scope", "Unsafe", lambda: after_input(made("CustomObjectScope", "keras.saving", custom_objects={}))
    yield (
        "a module of Keras that is no class",
        "Unsafe",
        lambda: after_input(made("importlib", "keras.src.saving.serialization_lib")),
    )
    yield (
        "the loader of Keras",
        "Unsafe",
        lambda: after_input(made("load_model", "keras.src.saving.saving_lib", filepath="canary")),
    )
    yield (
        "an operation that calls",
        "Unsafe",
        lambda: graph(called(made("Map", "keras.src.ops.core"), "d", function("eval"), tensor())),
    )
    yield (
        "a schedule that is a call",
        "Unsafe",
        lambda: {**compiled(optimizer=made("SGD", "keras.optimizers", learning_rate=system))},
    )


def gadgets() -> Iterator[Any]:
    """Classes of Keras that run, open or unpickle what they are given."""
    yield "CVE-2024-3660 byte code in a Lambda", "Unsafe", lambda: after_input(made("Lambda", function=byte_code()))
    yield (
        "byte code as Keras 2 wrote it",
        "Unsafe",
        lambda: after_input(made("Lambda", function=["4wEAAAA=", None, None], function_type="lambda")),
    )
    yield "byte code as an activation", "Unsafe", lambda: after_input(dense(activation=byte_code()))
    yield "byte code as an initializer", "Unsafe", lambda: after_input(dense(bias_initializer=byte_code()))
    yield (
        "byte code among the arguments of a call",
        "Unsafe",
        lambda: graph(called(dense(), "d", tensor(), mask=byte_code())),
    )
    yield (
        "byte code in a build configuration",
        "Unsafe",
        lambda: after_input({**dense(), "build_config": {"input_shape": byte_code()}}),
    )
    yield "byte code in a list of lists", "Damaged", lambda: after_input(dense(units=[[byte_code()]]))
    yield (
        "byte code in a wrapped layer",
        "Unsafe",
        lambda: after_input(made("TimeDistributed", layer=made("Lambda", function=byte_code()))),
    )
    yield (
        "byte code as a second direction",
        "Unsafe",
        lambda: after_input(
            made("Bidirectional", layer=made("LSTM", units=2), backward_layer=made("Lambda", function=byte_code()))
        ),
    )
    yield (
        "CVE-2026-12481 a Lambda with a function by name",
        "Unsafe",
        lambda: after_input(made("Lambda", function=function("relu"))),
    )
    yield (
        "CVE-2025-49655 a pickled torch module",
        "Unsafe",
        lambda: after_input({**made("TorchModuleWrapper"), "config": {"module": pickled()}}),
    )
    yield "CVE-2026-1462 a SavedModel", "Unsafe", lambda: after_input(made("TFSMLayer", filepath="canary"))
    yield (
        "a SavedModel by where it is defined",
        "Unsafe",
        lambda: after_input(made("TFSMLayer", "keras.src.export.tfsm_layer", filepath="canary")),
    )
    yield "a gadget without a module", "Unsafe", lambda: after_input(made("TFSMLayer", None, filepath="canary"))
    yield "a jax layer", "Unsafe", lambda: after_input(made("JaxLayer", call_fn=function("system", "os")))
    yield (
        "a flax layer",
        "Unsafe",
        lambda: after_input({**made("FlaxLayer"), "config": {"module": function("system", "os")}}),
    )
    yield (
        "a quantizer's data set",
        "Unsafe",
        lambda: after_input(
            dense(quantization_config=made("GPTQConfig", "keras.quantizers", dataset="canary", tokenizer="canary"))
        ),
    )
    yield (
        "a type by its module",
        "Damaged",
        lambda: after_input(
            dense(
                units={
                    "class_name": "__typespec__",
                    "spec_name": "system",
                    "module": "os",
                    "config": ["touch canary"],
                    "registered_name": None,
                }
            )
        ),
    )
    yield (
        "a special value that Keras has not",
        "Damaged",
        lambda: after_input(dense(units={"class_name": "__import__", "config": {"name": "evil_module"}})),
    )


def lookups() -> Iterator[Any]:
    """CVE-2025-12058: vocabularies that are paths or addresses; and vocabularies that are too large."""
    for name in ("StringLookup", "IntegerLookup", "TextVectorization"):
        yield (
            f"CVE-2025-12058 a path as vocabulary of {name}",
            "Unsafe",
            lambda name=name: sequential(made(name, vocabulary="canary")),
        )
        yield (
            f"an address as vocabulary of {name}",
            "Unsafe",
            lambda name=name: sequential(made(name, vocabulary="http://127.0.0.1:9/words")),
        )
    yield (
        "a path as weights of a vocabulary",
        "Unsafe",
        lambda: sequential(made("StringLookup", vocabulary=["a"], idf_weights="canary", output_mode="tf_idf")),
    )
    yield (
        "a path as a learned vocabulary",
        "Damaged",
        lambda: described({"layer": 1, "vocabulary": "canary", "idf_weights": None}),
    )
    yield (
        "a vocabulary for a layer that has none",
        "Damaged",
        lambda: described({"layer": 1, "vocabulary": ["a"], "idf_weights": None}),
    )
    yield (
        "a vocabulary for no layer",
        "Damaged",
        lambda: described({"layer": 99, "vocabulary": ["a"], "idf_weights": None}),
    )
    yield "a vocabulary with another field", "Damaged", lambda: described({"layer": 1, "path": "canary"})
    yield (
        "a vocabulary of objects",
        "Damaged",
        lambda: sequential(made("StringLookup", vocabulary=[{"class_name": "__lambda__"}, "a"])),
    )
    yield "a vocabulary of words and numbers", "Damaged", lambda: sequential(made("StringLookup", vocabulary=["a", 1]))
    yield (
        "a vocabulary of twice the same word",
        "Damaged",
        lambda: sequential(made("StringLookup", vocabulary=["a", "a"], name="s")),
    )
    yield (
        "a vocabulary beyond the budget",
        "LimitExceeded",
        lambda: sequential(made("IntegerLookup", vocabulary=list(range(200_000)))),
        {"vocabulary": 100_000},
    )
    yield (
        "several vocabularies beyond the budget",
        "LimitExceeded",
        lambda: sequential(*[made("IntegerLookup", vocabulary=list(range(60_000)))] * 2),
        {"vocabulary": 100_000},
    )
    yield (
        "one long word among many",
        "LimitExceeded",
        lambda: sequential(made("StringLookup", vocabulary=["x" * MIB, *map(str, range(10_000))])),
    )
    yield (
        "many places for unknown words",
        "LimitExceeded",
        lambda: sequential(made("StringLookup", vocabulary=["a"], num_oov_indices=10**12)),
    )
    yield (
        "padding beyond the budget",
        "LimitExceeded",
        lambda: sequential(
            made(
                "StringLookup",
                vocabulary=["a"],
                idf_weights=[1.0],
                output_mode="tf_idf",
                max_tokens=10**12,
                pad_to_max_tokens=True,
            )
        ),
    )


def names() -> Iterator[Any]:
    """Names that are registered by the program, paths, or somebody else's."""
    yield (
        "a registered class that was not passed",
        "NotFound",
        lambda: after_input(made("Registered", "evil", registered="evil>Registered")),
    )
    yield "a registered class by its plain name", "NotFound", lambda: after_input(made("Registered", None))
    yield (
        "a registered name on a class of Keras",
        "Unsafe",
        lambda: after_input({**dense(), "registered_name": "evil>Registered"}),
    )
    yield (
        "a registered function that was not passed",
        "NotFound",
        lambda: after_input(dense(activation=function("evil>fire", "evil", "evil>fire"))),
    )
    yield "a registered function by a text", "NotFound", lambda: after_input(dense(kernel_initializer="evil>fire"))
    yield (
        "a registered function among arguments",
        "NotFound",
        lambda: graph(called(dense(), "d", tensor(), mask="evil>fire")),
    )
    yield "CVE-2026-12479 a path as a layer's name", "Unsafe", lambda: after_input(dense(name="../../evil"))
    yield "a path as a model's name", "Unsafe", lambda: made("Sequential", "keras", name="a/../../b", layers=[])
    yield "a path of Windows as a name", "Unsafe", lambda: after_input(dense(name="..\\evil"))
    yield "a name with control characters", "Damaged", lambda: after_input(dense(name="a\x1b[2Jb"))
    yield "a name that is a number", "Damaged", lambda: after_input(dense(name=7))
    yield "a name of ten million letters", "Damaged", lambda: after_input(dense(name="x" * 10_000_000))
    yield (
        "a text of ten million letters",
        "Damaged",
        lambda: after_input(made("EinsumDense", equation="a" * 10_000_000, output_shape=2)),
    )
    yield "a path in a field", "Unsafe", lambda: after_input(dense(filepath="canary"))
    yield "an address in a field", "Unsafe", lambda: after_input(dense(activation="http://127.0.0.1:9/relu"))
    yield "a field that the class has not", "Damaged", lambda: after_input(dense(surprise=1))
    yield "a method as a field", "Damaged", lambda: after_input(dense(__class__="x", build=1))


def sizes() -> Iterator[Any]:
    """Small texts that ask for much memory."""
    yield "sixty million units", "LimitExceeded", lambda: after_input(dense(units=60_000_000))
    yield (
        "sixty million units that say how they were built",
        "LimitExceeded",
        lambda: after_input(made("Dense", build=[None, 4], units=60_000_000)),
    )
    yield "2^40 units", "LimitExceeded", lambda: after_input(dense(units=1 << 40))
    yield "2^63 units", "LimitExceeded", lambda: after_input(dense(units=1 << 63))
    yield (
        "units that meet in the next layer",
        "LimitExceeded",
        lambda: after_input(dense(units=10_000), dense(units=10_000)),
    )
    yield (
        "a lie about how it was built",
        "LimitExceeded",
        lambda: sequential(made("Dense", build=[None, 50_000_000], units=2)),
    )
    yield (
        "a built shape without its place",
        "LimitExceeded",
        lambda: after_input({**dense(), "build_config": {"shape": [1 << 50, 4]}}),
    )
    yield (
        "an embedding",
        "LimitExceeded",
        lambda: sequential(entrance(4, dtype="int32"), made("Embedding", input_dim=10**9, output_dim=10**9)),
    )
    yield (
        "an embedding just above",
        "LimitExceeded",
        lambda: sequential(entrance(4, dtype="int32"), made("Embedding", input_dim=1 << 24, output_dim=1 + (1 << 0))),
    )
    yield (
        "a hundred layers, each within",
        "LimitExceeded",
        lambda: sequential(entrance(1000), *[dense(units=1000) for _ in range(100)]),
    )
    yield "more parameters than allowed", "LimitExceeded", lambda: after_input(dense(units=1000)), {"parameters": 1000}
    yield (
        "a kernel of 10^5 by 10^5",
        "LimitExceeded",
        lambda: sequential(entrance(8, 8, 3), made("Conv2D", filters=2, kernel_size=[10**5, 10**5], padding="same")),
    )
    yield (
        "a depthwise kernel",
        "LimitExceeded",
        lambda: sequential(entrance(8, 8, 3), made("DepthwiseConv2D", kernel_size=[3, 3], depth_multiplier=10**8)),
    )
    yield (
        "attention heads",
        "LimitExceeded",
        lambda: graph(called(made("MultiHeadAttention", num_heads=10**5, key_dim=10**5), "d", tensor(), tensor())),
    )
    yield "recurrent units", "LimitExceeded", lambda: sequential(entrance(3, 4), made("LSTM", units=100_000))
    yield (
        "recurrent cells",
        "LimitExceeded",
        lambda: sequential(entrance(3, 4), made("RNN", cell=made("GRUCell", units=100_000))),
    )
    yield (
        "an einsum",
        "LimitExceeded",
        lambda: after_input(made("EinsumDense", equation="ab,bcd->acd", output_shape=[10**5, 10**5])),
    )
    yield (
        "a bias of a whole picture",
        "LimitExceeded",
        lambda: sequential(
            entrance(10**4, 10**4), made("EinsumDense", equation="abc,cd->abd", output_shape=[None, 1], bias_axes="bd")
        ),
    )
    yield "scales of a whole picture", "LimitExceeded", lambda: sequential(entrance(5_000, 5_000), made("PReLU"))
    yield "a low-rank adapter of high rank", "LimitExceeded", lambda: after_input(dense(lora_rank=10**9))
    yield (
        "an orthogonal matrix",
        "LimitExceeded",
        lambda: sequential(
            entrance(20_000), dense(units=20_000, kernel_initializer=made("Orthogonal", "keras.initializers"))
        ),
    )
    yield (
        "rounds of normalization",
        "LimitExceeded",
        lambda: after_input(made("SpectralNormalization", layer=dense(), power_iterations=10**9)),
    )
    yield "models within models", "LimitExceeded", lambda: nested(100)
    yield "lists within lists", "LimitExceeded", lambda: after_input(dense(units=lists(100_000)))
    yield "objects within objects", "LimitExceeded", lambda: nested(20_000)
    yield "too many layers", "LimitExceeded", lambda: sequential(*[made("Flatten")] * 200_000)
    yield (
        "a million numbers",
        "LimitExceeded",
        lambda: after_input(dense(kernel_initializer=made("Constant", "keras.initializers", value=[0.5] * 10_000_000))),
    )


def shapes() -> Iterator[Any]:
    """Shapes of what flows between layers."""
    yield "an input of a petabyte", "LimitExceeded", lambda: sequential(entrance(1 << 25, 1 << 25))
    yield "an input of a million axes", "LimitExceeded", lambda: sequential(entrance(*[1] * 1_000_000))
    yield "an input with a negative axis", "Damaged", lambda: sequential(entrance(-5))
    yield "an input with a text for an axis", "Damaged", lambda: sequential(entrance("4"), dense())
    yield (
        "an enlarged picture",
        "LimitExceeded",
        lambda: sequential(entrance(8, 8, 3), made("UpSampling2D", size=[10**5, 10**5])),
    )
    yield (
        "a padded picture",
        "LimitExceeded",
        lambda: sequential(entrance(8, 8, 3), made("ZeroPadding2D", padding=[[0, 10**6], [0, 10**6]])),
    )
    yield "a repeated vector", "LimitExceeded", lambda: after_input(made("RepeatVector", n=10**10))
    yield "an outer shape", "LimitExceeded", lambda: after_input(made("Reshape", target_shape=[1 << 20, 1 << 20]))
    yield (
        "one of many classes",
        "LimitExceeded",
        lambda: sequential(
            entrance(4, dtype="int32"), made("CategoryEncoding", num_tokens=10**12, output_mode="one_hot")
        ),
    )
    yield (
        "an operation that repeats",
        "LimitExceeded",
        lambda: graph(called(made("Repeat", "keras.src.ops.numpy", repeats=10**10, axis=1), "d", tensor())),
    )
    yield (
        "an array of objects",
        "Damaged",
        lambda: graph(called(dense(), "d", {"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}})),
    )
    yield (
        "an array of one long text and many",
        "Damaged",
        lambda: graph(
            called(
                dense(),
                "d",
                {"class_name": "__numpy__", "config": {"value": ["x" * MIB, *["y"] * 10_000], "dtype": "float32"}},
            )
        ),
    )
    yield (
        "a tensor of objects",
        "Damaged",
        lambda: graph(
            called(dense(), "d", {"class_name": "__tensor__", "config": {"value": {"a": 1}, "dtype": "float32"}})
        ),
    )
    yield (
        "a symbol of a petabyte",
        "LimitExceeded",
        lambda: graph(called(dense(), "d", tensor(shape=[1 << 25, 1 << 25]))),
    )


def graphs() -> Iterator[Any]:
    """Graphs that no model has."""
    yield "a negative node", "Damaged", lambda: graph(called(dense(), "d", tensor(node=-1)))
    yield "a node that is a text", "Damaged", lambda: graph(called(dense(), "d", tensor(node="0")))
    yield "a tensor number beyond", "Damaged", lambda: graph(called(dense(), "d", tensor(part=9)))
    yield "a layer that is not there", "Damaged", lambda: graph(called(dense(), "d", tensor("ghost")))
    yield "a layer of itself", "Damaged", lambda: graph(called(dense(), "d", tensor("d")))
    yield (
        "two layers of each other",
        "Damaged",
        lambda: graph(called(dense(), "c", tensor("d")), called(dense(), "d", tensor("c"))),
    )
    yield (
        "twice the same name",
        "Damaged",
        lambda: graph(called(dense(), "d", tensor()), called(dense(), "d", tensor())),
    )
    yield "another name within", "Damaged", lambda: graph({**called(dense(), "d", tensor()), "name": "e"})
    yield "an output that is not there", "Damaged", lambda: graph(called(dense(), "d", tensor()), output="ghost")
    yield "layers in reverse", "LimitExceeded", lambda: backwards(5_000)
    yield (
        "calls of another form",
        "Damaged",
        lambda: graph({**called(dense(), "d", tensor()), "inbound_nodes": [{"args": 1}]}),
    )
    yield "calls that are a text", "Damaged", lambda: graph({**called(dense(), "d", tensor()), "inbound_nodes": "all"})
    yield (
        "layers that are an object",
        "Damaged",
        lambda: made("Functional", "keras", name="m", layers={}, input_layers=[], output_layers=[]),
    )
    yield "a layer that is a number", "Damaged", lambda: graph(7)
    yield (
        "one object that is two",
        "Damaged",
        lambda: after_input({**dense(), "shared_object_id": 1}, {**made("Flatten"), "shared_object_id": 1}),
    )
    yield (
        "one object of two sizes",
        "Damaged",
        lambda: after_input({**dense(units=2), "shared_object_id": 1}, {**dense(units=3), "shared_object_id": 1}),
    )
    yield "an object number that is a list", "Damaged", lambda: after_input({**dense(), "shared_object_id": [1]})


def types() -> Iterator[Any]:
    """Wrong types at every field."""
    for what, value in (("list", [1]), ("number", 1), ("nothing", None), ("object", {"a": 1}), ("empty text", "")):
        yield (
            f"a class_name that is {what}",
            "Damaged",
            lambda value=value: after_input({**dense(), "class_name": value}),
        )
        if value is not None:
            yield f"a module that is {what}", "Damaged", lambda value=value: after_input({**dense(), "module": value})
            yield (
                f"a registered_name that is {what}",
                "Damaged",
                lambda value=value: after_input({**dense(), "registered_name": value}),
            )
    for what, value in (("list", [1]), ("text", "units"), ("number", 3)):
        yield f"a config that is {what}", "Damaged", lambda value=value: after_input({**dense(), "config": value})
        yield (
            f"a build_config that is {what}",
            "Damaged",
            lambda value=value: after_input({**dense(), "build_config": value}),
        )
        yield f"an architecture that is {what}", "Damaged", lambda value=value: value
        yield (
            f"layers that are {what}",
            "Damaged",
            lambda value=value: made("Sequential", "keras", name="m", layers=value),
        )
        yield (
            f"a function that is {what}",
            "Damaged" if what != "text" else "NotFound",
            lambda value=value: after_input(dense(activation=function(value))),
        )
    for what, value in (("a text", "64"), ("yes", True), ("a fraction", 1.5), ("negative", -3), ("a list", [64])):
        yield f"units that are {what}", "Damaged", lambda value=value: after_input(dense(units=value))
    yield "units that are nothing", "Damaged", lambda: after_input(dense(units=None))
    yield "units of four thousand digits", "Damaged", lambda: after_input(dense(units=10**4000))
    yield "a flag that is a text", "Damaged", lambda: after_input(dense(use_bias="yes"))
    yield "a rate that is an object", "Damaged", lambda: after_input(made("Dropout", rate={"a": 1}))
    yield "a rate of seven", "Damaged", lambda: after_input(made("Dropout", rate=7))
    yield "not a number", "Damaged", lambda: after_input(made("Dropout", rate=float("nan")))
    yield (
        "a number beyond that is none",
        "Damaged",
        lambda: after_input(made("Dropout", rate={"modelkeep.float": "os.system"})),
    )
    yield "a key that is a number", "Damaged", lambda: after_input(dense(kernel_regularizer={1: 2}))
    yield "a value of Python", "Damaged", lambda: after_input(dense(activation=print))
    yield "a layer that is no model", "Damaged", dense
    yield "an optimizer that is no model", "Damaged", lambda: made("SGD", "keras.optimizers", learning_rate=0.1)
    yield "a layer that is an initializer", "Damaged", lambda: after_input(made("Zeros", "keras.initializers"))
    yield "an initializer that is a layer", "Damaged", lambda: after_input(dense(kernel_initializer=dense()))
    yield (
        "an object without a config",
        "Damaged",
        lambda: after_input({"class_name": "Dense", "module": "keras.layers"}),
    )
    yield "a policy that is none", "Damaged", lambda: after_input(dense(dtype="float7"))
    yield "a policy that is a layer", "Damaged", lambda: after_input(dense(dtype=made("Dense", units=2)))
    yield "no description", "Damaged", dict
    yield "a description without a model", "Damaged", lambda: {"format": 1}
    yield "a format of tomorrow", "UnknownFormat", lambda: {"format": 99, "model": after_input(dense())}
    yield "a format that is a text", "Damaged", lambda: {"format": "1", "model": after_input(dense())}
    yield (
        "vocabularies that are an object",
        "Damaged",
        lambda: {"format": 1, "model": after_input(dense()), "vocabularies": {}},
    )


def compilations() -> Iterator[Any]:
    """What stands in the compilation: optimizers, losses, metrics."""
    yield "a loss that is get_file", "Unsafe", lambda: compiled(loss=function("get_file", "keras.utils"))
    yield "a metric that evaluates", "Unsafe", lambda: compiled(metrics=[function("eval")])
    yield "a metric of a system", "Unsafe", lambda: compiled(metrics=[{"a": made("system", "os")}])
    yield (
        "a confusion of many classes",
        "LimitExceeded",
        lambda: compiled(metrics=[made("MeanIoU", "keras.metrics", num_classes=10**6)]),
    )
    yield (
        "a billion thresholds",
        "LimitExceeded",
        lambda: compiled(metrics=[made("AUC", "keras.metrics", num_thresholds=10**9)]),
    )
    yield "an optimizer that is a layer", "Damaged", lambda: compiled(optimizer=dense())
    yield "an optimizer of an unknown name", "Damaged", lambda: compiled(optimizer="evil")
    yield (
        "an optimizer of torch's insides",
        "Unsafe",
        lambda: compiled(optimizer=made("load", "keras.src.backend.torch.optimizers.torch_adam")),
    )
    yield "a compilation that is a list", "Damaged", lambda: {**compiled(), "compile": [1]}
    yield "a compilation of unknown fields", "Damaged", lambda: compiled(surprise=1)
