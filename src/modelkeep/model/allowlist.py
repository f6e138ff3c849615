"""Which classes and functions an architecture may name: those of Keras that only compute, and those the caller passes.

A name is looked up in tables that are made from what is imported already. Nothing here imports by a name.
"""

import builtins
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import keras
from keras.src import activations, api_export, losses, metrics
from keras.src.backend.common import global_state
from keras.src.saving import object_registration
from keras.src.saving.keras_saveable import KerasSaveable

from modelkeep.errors import ModelkeepError, NotFound, Unsafe

GADGETS = {
    "Lambda": "runs a function that stands in the file",
    "TorchModuleWrapper": "unpickles a torch module",
    "TFSMLayer": "opens a SavedModel and runs its graph",
    "JaxLayer": "runs functions that the file names",
    "FlaxLayer": "runs a module that the file names",
    "GPTQConfig": "takes a data set and a tokenizer from the file",
    "AWQConfig": "takes a data set and a tokenizer from the file",
}
"""Keras classes that compute nothing of their own, but run, open or unpickle what they are given."""

# Each takes a function, so a file could only ever name one for them.
_CALLING_OPS = {
    "AssociativeScan", "Cond", "ForiLoop", "Function", "JVP", "Map", "Scan", "Switch", "VectorizedMap", "WhileLoop",
}  # fmt: skip
_PACKAGES = (
    "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints", "keras.losses", "keras.metrics",
    "keras.optimizers", "keras.optimizers.schedules", "keras.dtype_policies", "keras.quantizers",
)  # fmt: skip
_SINGLE = {
    "keras.Sequential", "keras.Model", "keras.Layer", "keras.Input", "keras.DTypePolicy", "keras.FloatDTypePolicy",
    "keras.random.SeedGenerator", "keras.utils.FeatureSpace", "keras.Loss", "keras.Metric", "keras.Optimizer",
}  # fmt: skip
_INTERNAL = {
    ("keras.src.applications.convnext", "LayerScale"),
    ("keras.src.applications.convnext", "StochasticDepth"),
    ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer"),
    ("keras.src.activations.activations", "Mish"),
    ("keras.src.activations.activations", "ReLU"),
    ("keras.src.layers.preprocessing.feature_space", "Cross"),
    ("keras.src.layers.preprocessing.feature_space", "Feature"),
    ("keras.src.layers.preprocessing.feature_space", "TFDConcat"),
    ("keras.src.layers.preprocessing.feature_space", "TFDIdentity"),
    ("keras.src.layers.rnn.conv_lstm", "ConvLSTMCell"),
    ("keras.src.losses.losses", "LossFunctionWrapper"),
    ("keras.src.models.functional", "Functional"),
    ("keras.src.quantizers.quantizers", "FakeQuantWithMinMaxVars"),
}
# Where a bare name, or one of another Keras version, is looked for; hints are parts of the field that it stands in.
_ORDER = (
    ("loss", "keras.losses"), ("metric", "keras.metrics"), ("optimizer", "keras.optimizers"),
    ("learning_rate", "keras.optimizers.schedules"), ("initializer", "keras.initializers"),
    ("regularizer", "keras.regularizers"), ("constraint", "keras.constraints"), ("dtype", "keras.dtype_policies"),
    ("", "keras.layers"), ("", "keras"), ("", "keras.src.models.functional"), ("", "keras.initializers"),
    ("", "keras.regularizers"), ("", "keras.constraints"), ("", "keras.optimizers"),
    ("", "keras.optimizers.schedules"), ("", "keras.dtype_policies"), ("", "keras.losses"), ("", "keras.metrics"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Named:
    """A class or a function that was looked up, and how Keras must be told so that it finds this one and no other."""

    found: Any
    module: str | None
    name: str
    registered: str | None
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one call may build: Keras' own, and ``custom``, the caller's classes and functions by any of their names."""

    custom: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    """The caller's objects by names that nothing else has, for Keras to find them by."""

    def named_class(self, name: str, module: str | None, registered: str | None, key: str) -> Named:
        """Look a class up; ``key`` is the field that it stands in.

        Raises:
            Unsafe: a class that runs or opens what it is given, or something that is no class of Keras or the caller.
            NotFound: a class of somebody's program that was not passed.
        """
        passed = self._passed(name, module, registered, inspect.isclass)
        if passed is not None:
            return passed
        if _is_keras(module) and registered not in {None, name}:
            raise Unsafe(
                f"{module}.{name} stands there with the registered name {registered!r:.80}, which a class of Keras has "
                "not: it would be replaced by another class"
            )
        if _is_keras(module) or (module is None and registered in {None, name}):
            if name in GADGETS:
                raise Unsafe(
                    f"the class {name} {GADGETS[name]}; if you trust the source, pass "
                    f"custom_objects={{{name!r}: keras.layers.{name}}} and all functions that it names"
                )
            found = builtin_classes().get((module or "", name)) or _by_bare_name(name, key)
            if found is not None:
                canonical, short = _spelling(found)
                return Named(found, canonical, short, None)
        raise unknown("class", name, module, registered)

    def named_function(self, name: str, module: str | None, registered: str | None) -> Named:
        """Look a function up. Raises as `named_class` does."""
        passed = self._passed(name, module, registered, callable)
        if passed is not None:
            return passed
        if (module is None or module == "builtins" or _is_keras(module)) and name in builtin_functions():
            found = builtin_functions()[name]
            return Named(found, "builtins", found.__name__, found.__name__)
        raise unknown("function", name, module, registered)

    def _passed(
        self, name: str, module: str | None, registered: str | None, fits: Callable[[Any], bool]
    ) -> Named | None:
        """The caller's object of that name; a class of Keras is never replaced by one that only has the same name."""
        plain = name if registered in {None, name} else None
        if plain is not None and _is_keras(module) and plain not in GADGETS:
            plain = None if (module or "", name) in builtin_classes() or name in builtin_functions() else plain
        for text in (registered if registered != name else None, plain):
            if text is None:
                continue
            for spelled in (text, text.rpartition(">")[2]):
                if spelled in self.custom and fits(self.custom[spelled]):
                    return self._key_of(self.custom[spelled])
        return None

    def _key_of(self, found: Any) -> Named:
        key = next(key for key, value in self.keys.items() if value is found)
        return Named(found, None, getattr(found, "__name__", key), key, custom=True)

    def is_withheld(self, text: str) -> bool:
        """Whether Keras would take ``text`` for something that the program has registered, but did not pass."""
        return text in object_registration.GLOBAL_CUSTOM_OBJECTS and text not in self.custom


def allow(custom_objects: Mapping[str, Any] | None) -> Allowed:
    """Allow Keras' own classes and ``custom_objects``: {name, or registered name: class or function}.

    A ``keras.saving.custom_object_scope`` that is open counts as passed; what is merely registered does not.
    """
    opened = global_state.get_global_attribute("custom_objects_scope_dict", {})
    passed = {**opened, **(custom_objects or {})}
    custom = dict(passed)
    for found in passed.values():
        registered = object_registration.GLOBAL_CUSTOM_NAMES.get(found) if _is_hashable(found) else None
        if registered:
            custom.setdefault(registered, found)
        custom.setdefault(getattr(found, "__name__", ""), found)
    custom.pop("", None)
    distinct = {id(found): found for found in passed.values()}
    keys = {f"modelkeep>{number}": found for number, found in enumerate(distinct.values())}
    return Allowed(custom, keys)


@cache
def builtin_classes() -> Mapping[tuple[str, str], Any]:
    """Every class of Keras that may be built, by (module, name): its public name and where it is defined."""
    found: dict[tuple[str, str], Any] = {}
    for public, symbol in api_export.REGISTERED_NAMES_TO_OBJS.items():
        module, _, name = public.rpartition(".")
        wanted = (module in _PACKAGES or public in _SINGLE) and name not in GADGETS
        if wanted and inspect.isclass(symbol):
            found[module, name] = symbol
    for cls in _subclasses(KerasSaveable):
        place = (cls.__module__, cls.__name__)
        is_op = cls.__module__.startswith("keras.src.ops.") and cls.__name__ not in _CALLING_OPS
        if place in _INTERNAL or is_op:
            found[place] = cls
    for cls in list(found.values()):
        found.setdefault((cls.__module__, cls.__name__), cls)
    return found


@cache
def builtin_functions() -> Mapping[str, Any]:
    """The functions of Keras that an architecture may name: activations, losses and metrics."""
    tables = (metrics.ALL_OBJECTS_DICT, losses.ALL_OBJECTS_DICT, activations.ALL_OBJECTS_DICT)
    return {name: found for table in tables for name, found in table.items() if inspect.isfunction(found)}


def unknown(what: str, name: str, module: str | None, registered: str | None) -> ModelkeepError:
    """The error for a name that is neither of Keras' modelling classes nor the caller's."""
    spelled = f"{module}.{name}" if module else name
    root = (module or "").partition(".")[0]
    if _is_python(name, module, root) or (_is_keras(module) and _is_exported(spelled)):
        return Unsafe(
            f"the {what} {spelled!r:.200} is no part of a model; nothing was imported or called, and a file that names "
            "it should not be loaded"
        )
    given = registered if registered and ">" in registered else name
    return NotFound(
        f"the {what} {spelled!r:.200} is not part of Keras {keras.__version__} and was not passed; nothing was "
        f"imported. If you trust it, import it yourself and pass custom_objects={{{given!r:.120}: {name:.80}}}"
    )


def _is_python(name: str, module: str | None, root: str) -> bool:
    # Keras writes a function of anybody's program as if it were a builtin one
    if module == "builtins":
        return hasattr(builtins, name) or not name.isidentifier()
    return root in sys.stdlib_module_names


def _is_keras(module: str | None) -> bool:
    return module is not None and (module == "keras" or module.startswith("keras."))


def _is_exported(public: str) -> bool:
    return api_export.get_symbol_from_name(public) is not None or public.startswith("keras.")


def _by_bare_name(name: str, key: str) -> Any:
    table = builtin_classes()
    for hint, module in _ORDER:
        if hint in key and (module, name) in table:
            return table[module, name]
    return None


def _spelling(cls: Any) -> tuple[str, str]:
    public = cast("str | None", api_export.get_name_from_symbol(cls))
    if public is None:
        return cls.__module__, cls.__name__
    module, _, name = public.rpartition(".")
    return module, name


def _subclasses(cls: Any) -> Iterator[Any]:
    for found in cls.__subclasses__():
        yield found
        yield from _subclasses(found)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
