"""Everything in an architecture is checked here, before anything is built: a pass over JSON that calls no Keras.

What comes out is not the file's own text but a copy in which every class and function is spelled so that Keras finds
the one that was looked up here, and no other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import keras

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, ModelkeepError, NotFound, Unsafe
from modelkeep.model import special, vocabulary
from modelkeep.model.allowlist import Allowed, Named
from modelkeep.model.estimate import bytes_floor, parameters_floor
from modelkeep.model.fields import check_field, check_name, check_shape
from modelkeep.model.graph import check_graph
from modelkeep.values import Json

Where: TypeAlias = "tuple[Where, str | int] | None"
"""A place: the place around it, and the key or the number within that."""

_SCALARS = {bool, int, float, str, type(None)}
_NUMBERS = {bool, int, float, type(None)}
_TEXT = 16_384


@dataclass(slots=True)
class Walk:
    """One pass over one architecture; counts go up, and every check compares them with the budget."""

    allowed: Allowed
    budget: Budget
    title: str = "architecture"
    nodes: int = 0
    scalars: int = 0
    entries: int = 0
    parameters: int = 0
    nbytes: int = 0
    _shared: dict[int, tuple[str, object]] = field(default_factory=dict)

    def model(self, config: Json) -> dict[str, Any]:
        """Return the checked configuration of a model, its compilation left out.

        Raises:
            Unsafe: it would run code, or open a path or an address.
            NotFound: it names a class or a function that was not passed.
            LimitExceeded: it is larger than the budget.
            Damaged: it is no configuration of a Keras model.
        """
        if not isinstance(config, dict) or "class_name" not in config:
            raise Damaged(f"{self.title}: a model's configuration is an object with a class_name, not {_kind(config)}")
        self._check_depth(config)
        return self._object(config, (None, "model"), "", 1)

    def compilation(self, config: Json) -> dict[str, Any]:
        """Return the checked configuration of a model's optimizer, loss and metrics. Raises as `model` does."""
        if not isinstance(config, dict):
            raise Damaged(f"{self.title}: a compilation is an object, not {_kind(config)}")
        self._check_depth(config)
        found = self.value(config, (None, "compile"), "", 1)
        assert isinstance(found, dict)
        return found

    def _check_depth(self, config: Json) -> None:
        """Before anything is shown in a message: to print what is nested deeply enough is too deep for Python."""
        level: list[Json] = [config]
        for _ in range(self.budget.depth + 1):
            level = [part for one in level for part in _parts(one)]
            if not level:
                return
        self.budget.check("depth", self.budget.depth + 1, self.title)

    def value(self, value: Any, where: Where, key: str, depth: int) -> Any:
        """Return the checked copy of any value; ``key`` is the field in which it stands."""
        kind = type(value)
        if kind in _SCALARS:
            self._scalar(value, where)
            return value
        if depth > self.budget.depth:
            self.budget.check("depth", depth, self.place(where))
        if kind is list or kind is tuple:
            return self._list(value, where, key, depth)
        if kind is dict:
            if "class_name" in value:
                return self._object(value, where, key, depth)
            if set(value) == {special.FLOAT}:
                return special.number(value[special.FLOAT], self.place(where))
            return self.fields(value, where, depth)
        raise Damaged(f"{self.place(where)}: a value of type {kind.__name__} is not JSON")

    def fields(self, config: Mapping[Any, Any], where: Where, depth: int) -> dict[str, Any]:
        """Return the checked copy of an object's fields."""
        self._count_scalars(len(config), where)
        found: dict[str, Any] = {}
        for name, value in config.items():
            if type(name) is not str or len(name) > 1024:
                raise Damaged(f"{self.place(where)}: the field {name!r:.80} is not named by a short text")
            found[name] = self.value(value, (where, name), name, depth + 1)
        return found

    def place(self, where: Where) -> str:
        """Where something stands, for a person: a path of keys and numbers, with the layers' names."""
        keys: list[str | int] = []
        while where is not None:
            where, key = where
            keys.append(key)
        text = "".join(f"[{key}]" if isinstance(key, int) else f".{key:.100}" for key in reversed(keys))
        return f"{self.title}: {text.removeprefix('.')}"

    def refuse(self, where: Where, error: ModelkeepError) -> NoReturn:
        """Raise ``error`` with the place in front of its text."""
        raise type(error)(f"{self.place(where)}: {error}") from None

    def _scalar(self, value: Any, where: Where) -> None:
        self.scalars += 1
        if type(value) is str:
            if len(value) > _TEXT:
                raise Damaged(f"{self.place(where)}: a text of {len(value):,} characters, where Keras has a short one")
            if self.allowed.is_withheld(value):
                raise NotFound(
                    f"{self.place(where)}: {value!r:.120} is registered by this program, but was not passed; if the "
                    f"file may use it, pass custom_objects={{{value!r:.120}: ...}}"
                )
        elif type(value) is int and abs(value) >= 1 << 64:
            raise Damaged(f"{self.place(where)}: a number of {value.bit_length()} bits")
        elif type(value) is float and not math.isfinite(value):
            raise Damaged(f"{self.place(where)}: {value} is not JSON; write it as {{{special.FLOAT!r}: '{value}'}}")

    def _list(self, value: list[Any] | tuple[Any, ...], where: Where, key: str, depth: int) -> list[Any]:
        self._count_scalars(len(value), where)
        kinds = set(map(type, value))
        if kinds <= _NUMBERS:  # long lists of numbers, such as a constant's values, take no step for each
            finite = all(map(math.isfinite, value)) if kinds == {float} else None
            if kinds <= {int, type(None)} and "shape" in key:
                check_shape(value, self.budget, self.place(where))
            if finite or (kinds == {int} and max(value) < 1 << 64 and min(value) > -(1 << 64)):
                return list(value)
        return [self.value(item, (where, index), key, depth + 1) for index, item in enumerate(value)]

    def _object(self, value: dict[str, Any], where: Where, key: str, depth: int) -> dict[str, Any]:
        self.nodes += 1
        self.budget.check("nodes", self.nodes, self.place(where))
        name, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
        for what, text in (("class_name", name), ("module", module), ("registered_name", registered)):
            if not (isinstance(text, str) and 0 < len(text) <= 512) and not (text is None and what != "class_name"):
                raise Damaged(f"{self.place((where, what))}: a name is wanted, not {_kind(text)}")
        if "config" not in value:
            raise Damaged(f"{self.place(where)}: an object of class {name:.80} without a config")
        if name.startswith("__") and name.endswith("__"):
            return special.checked(self, value, where, depth)
        try:
            if name == "function":
                return self._function(value, module, registered)
            where = (where, f"<{label:.60}>") if (label := _label(value)) else where
            named = self.allowed.named_class(name, module, registered, key)
        except ModelkeepError as error:
            self.refuse(where, error)
        return self._instance(value, named, where, depth)

    def _function(self, value: Mapping[str, Any], module: str | None, registered: str | None) -> dict[str, Any]:
        name = value["config"]
        if not isinstance(name, str) or not 0 < len(name) <= 512:
            raise Damaged(f"a function is named by its config, and this is {_kind(name)}")
        registered = None if registered == "function" else registered
        named = self.allowed.named_function(name, module, registered)
        text = named.registered if named.custom else named.name
        return {"module": named.module, "class_name": "function", "config": text, "registered_name": named.registered}

    def _instance(self, value: dict[str, Any], named: Named, where: Where, depth: int) -> dict[str, Any]:
        config = value["config"]
        if config is None:
            config = {}
        if not isinstance(config, dict):
            raise Damaged(f"{self.place((where, 'config'))}: an object is wanted, not {_kind(config)}")
        if named.name == "Lambda":
            self._check_lambda(config, where)
        inside = (where, "config")
        if not named.custom:
            is_layer = issubclass(named.found, keras.Operation)
            for key, item in config.items():
                if key != "name" or is_layer:  # a metric may be called "val/accuracy"
                    check_field(key, item, self.place((inside, key)))
        taken = vocabulary.check(self, named, config, inside)
        rest = {key: item for key, item in config.items() if key not in taken}
        made = self.fields(rest, inside, depth) | {key: config[key] for key in taken}
        found = {
            "module": named.module,
            "class_name": named.name,
            "config": made,
            "registered_name": named.registered,
        }
        self._around(value, found, where, depth)
        if not named.custom:
            self._estimate(named, found, where)
            if "input_layers" in config or "output_layers" in config:
                self._functional(made, where)
        if value.get("shared_object_id") is not None:
            self._share(value, found, where)
        return found

    def _around(self, value: Mapping[str, Any], found: dict[str, Any], where: Where, depth: int) -> None:
        """What stands beside the config of an object: how it was built, its name and its calls in a graph."""
        build = value.get("build_config")
        if build is not None:
            if not isinstance(build, dict):
                raise Damaged(f"{self.place((where, 'build_config'))}: an object is wanted, not {_kind(build)}")
            found["build_config"] = self.fields(build, (where, "build_config"), depth)
        if "name" in value:
            check_name(value["name"], self.place((where, "name")))
            found["name"] = value["name"]
        if "inbound_nodes" in value:
            calls = value["inbound_nodes"]
            if not isinstance(calls, list):
                raise Damaged(f"{self.place((where, 'inbound_nodes'))}: a list is wanted, not {_kind(calls)}")
            for number, call in enumerate(calls):
                self._check_call(call, ((where, "inbound_nodes"), number))
            found["inbound_nodes"] = self._list(calls, (where, "inbound_nodes"), "inbound_nodes", depth)

    def _check_call(self, call: object, where: Where) -> None:
        if isinstance(call, dict):
            args, kwargs = call.get("args"), call.get("kwargs")
            if set(call) != {"args", "kwargs"} or not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
                raise Damaged(f"{self.place(where)}: a call has a list of args and an object of kwargs")
        elif not isinstance(call, list):
            raise Damaged(f"{self.place(where)}: a call is an object with args and kwargs, not {_kind(call)}")

    def _functional(self, config: dict[str, Any], where: Where) -> None:
        layers = config.get("layers")
        if not isinstance(layers, list):
            raise Damaged(f"{self.place((where, 'layers'))}: a list of layers is wanted, not {_kind(layers)}")
        for number, layer in enumerate(layers):
            if not isinstance(layer, dict) or not {"class_name", "name", "inbound_nodes", "config"} <= set(layer):
                raise Damaged(
                    f"{self.place((((where, 'config'), 'layers'), number))}: a layer has a class_name, a config, a "
                    "name and inbound_nodes"
                )
        for key in ("input_layers", "output_layers"):
            if not isinstance(config.get(key), list | dict):
                raise Damaged(
                    f"{self.place((where, key))}: a list or an object is wanted, not {_kind(config.get(key))}"
                )
        check_graph(config, self.place(where))

    def _estimate(self, named: Named, found: Mapping[str, Any], where: Where) -> None:
        floor = parameters_floor(named.name, found["config"], found.get("build_config"))
        self.parameters += floor
        self.nbytes += bytes_floor(floor, found["config"].get("dtype"))
        if floor:
            self.budget.check("parameters", self.parameters, self.place(where))
            self.budget.check("nbytes", self.nbytes, self.place(where))

    def _share(self, value: Mapping[str, Any], found: dict[str, Any], where: Where) -> None:
        number = value["shared_object_id"]
        if type(number) is not int:
            raise Damaged(f"{self.place((where, 'shared_object_id'))}: a number is wanted, not {_kind(number)}")
        what = (f"{found['module']}.{found['class_name']}.{found['registered_name']}", found["config"])
        if self._shared.setdefault(number, what) != what:
            raise Damaged(f"{self.place(where)}: two different objects say that they are one, number {number}")
        found["shared_object_id"] = number

    def _check_lambda(self, config: Mapping[str, Any], where: Where) -> None:
        for key in ("function", "output_shape", "mask"):
            item = config.get(key)
            if isinstance(item, dict) and item.get("class_name") not in {"function", "__lambda__"}:
                raise Unsafe(f"{self.place((where, key))}: a Lambda layer runs a function, and this is none")

    def _count_scalars(self, count: int, where: Where) -> None:
        self.scalars += count
        if self.scalars * 8 > self.budget.nbytes:
            self.budget.check("nbytes", self.scalars * 8, self.place(where))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "a yes or no"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _label(value: Mapping[str, Any]) -> str:
    """What a person calls an object, if its configuration tells."""
    config = value["config"]
    name = value.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return name if isinstance(name, str) else ""


def _parts(value: Json) -> list[Json]:
    """The containers within a value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [part for part in inside if isinstance(part, dict | list | tuple)]
