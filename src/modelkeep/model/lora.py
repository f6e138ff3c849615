"""Low-rank adapters (https://arxiv.org/abs/2106.09685), merged into the weights that they adapt."""

from typing import Any

from modelkeep.budget import Budget
from modelkeep.errors import UsageError
from modelkeep.values import Json

_FIELDS = ("lora_rank", "lora_alpha")


def merge_lora(model: Any) -> Any:
    """A copy of a Keras model whose adapters are part of its kernels: each kernel plus ``alpha / rank * a @ b``.

    The copy takes and gives what ``model`` does, has as many layers, and none of them has LoRA. It is not compiled.
    Kernels that are quantized are merged and quantized again by Keras, which loses some of their precision.

    Args:
        model: a built ``keras.Model`` of which layers have LoRA (``enable_lora``); it stays as it is.

    Raises:
        UsageError: no layer has LoRA.
        UnsupportedState: a part of the model has no configuration.

    >>> import keras, modelkeep as mk, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.layers[0].enable_lora(1)
    >>> merged = mk.merge_lora(model)
    >>> len(model.weights), len(merged.weights)
    (4, 2)
    >>> bool(np.allclose(merged(np.ones((1, 3))), model(np.ones((1, 3)))))
    True
    """
    from modelkeep.frameworks.keras_names import flat_layers  # which need Keras; this name does not
    from modelkeep.model.architecture import describe
    from modelkeep.model.build import build

    layers = list(flat_layers(model))
    if not any(getattr(layer, "lora_enabled", False) for layer in layers):
        raise UsageError(f"model {model.name!r} has no layer with LoRA, so there is nothing to merge")
    own = {type(layer).__name__: type(layer) for layer in layers if not type(layer).__module__.startswith("keras.")}
    architecture = _without_lora(describe(model, compiled=False))
    merged = build(architecture, custom_objects=own, budget=Budget(), drawn=False)
    for source, target in zip(layers, flat_layers(merged), strict=True):
        store: dict[str, Any] = {}
        source.save_own_variables(store)  # where LoRA is enabled, Keras stores the merged kernel
        if store:
            target.load_own_variables(store)
        for seed, other in zip(source._seed_generators, target._seed_generators, strict=True):
            other.state.assign(seed.state)
    return merged


def _without_lora(value: Any) -> Json:
    if isinstance(value, dict):
        return {name: None if name in _FIELDS else _without_lora(part) for name, part in value.items()}
    return [_without_lora(part) for part in value] if isinstance(value, list) else value
