"""From JSON that anybody may have written to a Keras model: walked, looked up, then built within a budget."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src.saving import object_registration, serialization_lib

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UnknownFormat, UsageError, told
from modelkeep.frameworks.keras_names import flat_layers
from modelkeep.model.allowlist import allow
from modelkeep.model.architecture import FORMAT
from modelkeep.model.guard import limited, replaced
from modelkeep.model.vocabulary import check_entries, is_lookup
from modelkeep.model.walk import Walk
from modelkeep.values import Json


def build(
    architecture: Json,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    compiled: bool = False,
    drawn: bool = True,
) -> Any:
    """Build a Keras model from its architecture. Nothing that the JSON says is run, imported or opened.

    Args:
        architecture: what `describe` gave, or the ``config.json`` of a ``.keras`` file, parsed.
        custom_objects: the classes and functions that the model may use beyond Keras' own: {name: class}, by class
            name or by registered name. What the program has registered is not used unless it is passed here.
        budget: the most that the model may take, compared before anything of that size is made.
        compiled: compile it, with the optimizer's variables built, as the architecture says.
        drawn: False leaves random initial values at zero, which is faster when weights are loaded next.

    Returns:
        A ``keras.Model`` with its weights at their initial values, and its vocabularies set.

    Raises:
        Unsafe: the architecture would run code, or open a path or an address.
        NotFound: it uses a class or a function that was not passed.
        LimitExceeded: the model is larger than the budget.
        UnknownFormat: it was written by a newer modelkeep.
        UsageError: its code is for another backend than this process has.
        Damaged: Keras cannot make a model of it.

    >>> from modelkeep.model.architecture import describe
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    >>> build(describe(model)).layers[0].units
    2
    """
    limits = budget or Budget()
    parts = _parts(architecture)
    allowed = allow(custom_objects)
    walk = Walk(allowed, limits)
    config = walk.model(parts["model"])
    compilation = walk.compilation(parts["compile"]) if compiled and parts.get("compile") is not None else None
    vocabularies = _vocabularies(parts.get("vocabularies"), limits)

    def make() -> Any:
        model = serialization_lib.deserialize_keras_object(config, custom_objects=scope, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise Damaged(f"architecture: {config['class_name']:.80} is no model")
        _set_vocabularies(model, vocabularies)
        if compilation is not None:
            model.compile_from_config(compilation)
        return model

    scope = {**allowed.custom, **allowed.keys}
    return _guarded(make, scope, limits, drawn=drawn, trained=parts.get("backend"))


def _guarded(make: Callable[[], Any], scope: Mapping[str, Any], budget: Budget, *, drawn: bool, trained: Any) -> Any:
    ledger = None
    try:
        with (
            limited(budget, "architecture", drawn=drawn) as ledger,
            replaced(keras.layers.Dense, "enable_lora", _with_alpha),
            replaced(keras.layers.Embedding, "enable_lora", _with_alpha),
            serialization_lib.SafeModeScope(safe_mode=True),
            serialization_lib.ObjectSharingScope(),
            object_registration.CustomObjectScope(scope),
        ):
            model = make()
    except ModelkeepError as error:
        raise (ledger.refused if ledger and ledger.refused else error) from None
    except Exception as error:
        if ledger is not None and ledger.refused is not None:
            raise ledger.refused from None
        if isinstance(error, MemoryError):
            raise LimitExceeded(f"architecture: this machine has not the memory for it: {error!s:.200}") from None
        here = keras.backend.backend()
        if isinstance(trained, str) and trained != here:
            raise UsageError(
                f"the model cannot be built under {here}: {told(error)}; it was made under {trained:.20}, and code of "
                f"that backend alone runs with KERAS_BACKEND={trained:.20}"
            ) from error
        raise Damaged(f"architecture: Keras makes no model of it: {told(error)}") from error
    if ledger.refused is not None:  # Keras went on without what was refused
        raise ledger.refused
    return model


def _with_alpha(enable: Callable[..., Any]) -> Callable[..., Any]:
    """When they are built, these layers enable the LoRA of their configuration, and forget its ``lora_alpha``."""

    def enable_lora(layer: Any, rank: int, lora_alpha: Any = None, **initializers: Any) -> None:
        enable(layer, rank, layer.lora_alpha if lora_alpha is None else lora_alpha, **initializers)

    return enable_lora


def _parts(architecture: Json) -> Mapping[str, Any]:
    if not isinstance(architecture, dict):
        raise Damaged(f"architecture: an object is wanted, not {type(architecture).__name__}")
    if "class_name" in architecture:
        rest = {key: item for key, item in architecture.items() if key != "compile_config"}
        return {"model": rest, "compile": architecture.get("compile_config")}
    number = architecture.get("format")
    if type(number) is not int or "model" not in architecture:
        raise Damaged("architecture: neither a description by modelkeep nor a configuration by Keras")
    if number > FORMAT:
        raise UnknownFormat(f"architecture: its format is {number}, and this version reads up to {FORMAT}; upgrade")
    return architecture


def _vocabularies(listed: Json, budget: Budget) -> list[tuple[int, list[Any], list[float] | None]]:
    """Check the vocabularies of an architecture: (number of the layer, entries, weights)."""
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise Damaged(f"architecture: vocabularies: a list is wanted, not {type(listed).__name__}")
    found = []
    total = 0
    for index, item in enumerate(listed):
        where = f"architecture: vocabularies[{index}]"
        if not isinstance(item, dict) or set(item) != {"layer", "vocabulary", "idf_weights"}:
            raise Damaged(f"{where}: layer, vocabulary and idf_weights are wanted")
        number, entries, weights = item["layer"], item["vocabulary"], item["idf_weights"]
        if type(number) is not int:
            raise Damaged(f"{where}: the layer is given by its number")
        total += check_entries(entries, budget, where, numbers=False)
        if weights is not None:
            total += check_entries(weights, budget, where, numbers=True)
        budget.check("vocabulary", total, where)
        found.append((number, entries, weights))
    return found  # type: ignore[return-value]  # check_entries has looked at each entry


def _set_vocabularies(model: Any, vocabularies: list[tuple[int, list[Any], list[float] | None]]) -> None:
    layers = list(flat_layers(model)) if vocabularies else []
    for number, entries, weights in vocabularies:
        layer = layers[number] if 0 <= number < len(layers) else None
        if layer is None or not is_lookup(type(layer)):
            raise Damaged(f"architecture: there is no lookup layer number {number} for a vocabulary")
        layer.set_vocabulary(entries, idf_weights=weights)
