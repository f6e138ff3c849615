"""The door in detail: what callers may pass, what they are told, and that Keras is left as it was."""

import json
import threading

import keras
import numpy as np
import pytest
from keras import layers
from keras.src import backend
from keras.src.backend.common.keras_tensor import KerasTensor

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, NotFound, Unsafe, UnsupportedState
from modelkeep.model.allowlist import builtin_classes, builtin_functions
from modelkeep.model.architecture import describe
from modelkeep.model.build import build
from modelkeep.model.guard import limited


class Own(layers.Layer):
    def call(self, x):
        return x * 2


def own_function(x):
    return x * 3


def model_of(*inside, width=4):
    return keras.Sequential([keras.Input((width,)), *inside])


def through_json(found):
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_class_that_was_not_passed_is_named_with_the_way_out():
    found = describe(model_of(Own(name="mine")))
    with pytest.raises(NotFound, match=r"<mine>.*Own.*not passed.*custom_objects=\{'Own': Own\}"):
        build(found)
    assert isinstance(build(found, custom_objects={"Own": Own}).layers[0], Own)


def test_a_class_may_be_passed_under_any_of_its_names():
    registered = keras.saving.register_keras_serializable("pack", "Named")(type("Named", (Own,), {}))
    found = describe(model_of(registered()))
    for key in ("pack>Named", "Named", "whatever"):
        assert isinstance(build(found, custom_objects={key: registered}).layers[0], registered)
    with keras.saving.custom_object_scope({"Named": registered}):
        assert isinstance(build(found).layers[0], registered)
    with pytest.raises(NotFound):
        build(found)


def test_a_class_with_the_name_of_one_of_keras_does_not_take_its_place():
    class Dense(layers.Layer):
        pass

    found = describe(model_of(layers.Dense(2)))
    assert type(build(found, custom_objects={"Dense": Dense}).layers[0]) is layers.Dense


def test_a_lambda_layer_is_built_only_with_the_class_and_the_function_passed():
    found = through_json(describe(model_of(layers.Lambda(own_function, name="triple"))))
    with pytest.raises(Unsafe, match="custom_objects"):
        build(found)
    with pytest.raises(NotFound):
        build(found, custom_objects={"Lambda": layers.Lambda})
    model = build(found, custom_objects={"Lambda": layers.Lambda, "own_function": own_function})
    assert np.array_equal(model(np.ones((1, 4), "float32")), [[3, 3, 3, 3]])


def test_a_lambda_cannot_be_described():
    with pytest.raises(UnsupportedState, match="named function"):
        describe(model_of(layers.Lambda(lambda x: x)))
    model = model_of(layers.Dense(1))
    model.compile("sgd", lambda y, p: (y - p) ** 2)
    with pytest.raises(UnsupportedState, match="compile"):
        describe(model)
    assert describe(model, compiled=False)["compile"] is None


def test_a_refusal_names_the_place_with_the_layer():
    found = describe(model_of(layers.Dense(2, name="head")))
    found["model"]["config"]["layers"][1]["config"]["units"] = "2"
    with pytest.raises(Damaged, match=r"model\.<sequential\w*>\.config\.layers\[1\]\.<head>\.config\.units"):
        build(found)


def test_the_budget_stops_at_the_first_variable_beyond_it():
    model = model_of(layers.Dense(100), layers.Dense(100))
    nbytes = sum(weight.nbytes for weight in model.get_weights())
    found = describe(model)
    assert build(found, budget=Budget(nbytes=nbytes)).count_params() == model.count_params()
    with pytest.raises(LimitExceeded, match=r"Budget\(nbytes="):
        build(found, budget=Budget(nbytes=nbytes - 1))
    with pytest.raises(LimitExceeded, match="parameters"):
        build(found, budget=Budget(parameters=model.count_params() - 1))


def test_the_optimizers_variables_are_within_the_budget():
    model = model_of(layers.Dense(100))
    model.compile("adam", "mse")
    found = describe(model)
    nbytes = sum(weight.nbytes for weight in model.get_weights())
    with pytest.raises(LimitExceeded):
        build(found, budget=Budget(nbytes=2 * nbytes), compiled=True)
    assert build(found, budget=Budget(nbytes=4 * nbytes), compiled=True).optimizer.built


def test_keras_is_as_it_was_after_a_build_and_after_a_refusal():
    def methods():
        return [vars(backend.Variable).get(name) for name in ("_validate_shape", "_initialize_with_initializer")] + [
            KerasTensor.__init__
        ]

    before = methods()
    found = describe(model_of(layers.Dense(100)))
    build(found)
    with pytest.raises(LimitExceeded):
        build(found, budget=Budget(nbytes=10))
    assert methods() == before


def test_other_threads_are_not_held_to_the_budget():
    made = []
    with limited(Budget(nbytes=1 << 20), "test"):
        other = threading.Thread(target=lambda: made.append(layers.Dense(1000).build((None, 1000))))
        other.start()
        other.join()
        with pytest.raises(LimitExceeded):
            layers.Dense(1000).build((None, 1000))
    assert made == [None]


def test_weights_that_will_be_loaded_are_not_drawn_first():
    found = describe(model_of(layers.Dense(3, kernel_initializer="orthogonal", bias_initializer="ones")))
    kernel, bias = build(found, drawn=False).get_weights()
    assert not kernel.any()
    assert bias.all()
    assert build(found).get_weights()[0].any()


def test_two_descriptions_of_one_model_are_equal():
    model = model_of(layers.Dense(3), layers.Dense(3))
    assert describe(model) == describe(model)


def test_the_configuration_of_a_keras_file_goes_through_the_same_door(tmp_path):
    import zipfile

    model = model_of(layers.Dense(3, "relu"))
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    config = json.loads(zipfile.ZipFile(tmp_path / "model.keras").read("config.json"))
    again = build(config, compiled=True)
    again.set_weights(model.get_weights())
    assert np.array_equal(model(np.ones((2, 4), "float32")), again(np.ones((2, 4), "float32")))
    assert again.optimizer.built


def test_every_function_and_class_that_is_allowed_is_found_by_keras_as_the_same():
    from modelkeep.model.allowlist import allow

    nothing = allow(None)
    for name, function in builtin_functions().items():
        named = nothing.named_function(name, "builtins", None)
        config = {"module": named.module, "class_name": "function", "config": named.name, "registered_name": named.name}
        assert keras.saving.deserialize_keras_object(config) is function
    for (module, name), cls in builtin_classes().items():
        named = nothing.named_class(name, module, None, "")
        assert named.found is cls, (module, name)


def test_nothing_that_is_allowed_takes_a_function_or_opens_a_file():
    names = {name for _, name in builtin_classes()}
    assert not names & {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "Map", "Scan", "Cond"}
    assert not names & {"ExportArchive", "KerasFileEditor", "Callback", "PyDataset", "CustomObjectScope"}
    assert not set(builtin_functions()) & {"get_file", "load_model", "eval"}
