"""Where the weights of a layer come from: remembered from a transfer until the model is saved or published.

By layer, because what is trained is often another model around the layers that were given their weights.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from modelkeep.store import Parent
from modelkeep.values import Json, SnapshotId

_ORIGINS: WeakKeyDictionary[Any, list[Mapping[str, Json]]] = WeakKeyDictionary()


def remember(layers: Iterable[Any], origin: Mapping[str, Json]) -> None:
    """Remember for each layer that its weights were taken from ``origin``."""
    for layer in layers:
        known = _ORIGINS.setdefault(layer, [])
        if origin not in known:
            known.append(origin)


def transferred(layers: Iterable[Any]) -> list[dict[str, Json]]:
    """What layers have their weights from: each origin once, with the number of layers that took from it."""
    counts: list[dict[str, Json]] = []
    for layer in layers:
        for origin in _ORIGINS.get(layer, []):
            known = next((one for one in counts if {**one, "layers": None} == {**origin, "layers": None}), None)
            if known is None:
                counts.append({**origin, "layers": 1})
            else:
                known["layers"] += 1  # type: ignore[operator]  # a number, made above
    return counts


def parents_of(origins: Json, keep_id: str) -> list[Parent]:
    """The versions of this keep among such origins."""
    return [
        Parent(str(one["model"]), int(str(one["version"])), SnapshotId(str(one["snapshot"])))
        for one in (origins if isinstance(origins, list) else [])
        if isinstance(one, dict) and one.get("keep") == keep_id and "version" in one
    ]


def shown(origin: Json) -> str:
    """An origin for a person.

    >>> shown({"keep": "...", "snapshot": "5d2c", "model": "digits", "version": 3, "layers": 2})
    'model:digits@3'
    """
    if not isinstance(origin, dict):
        return ""
    if "version" in origin:
        return f"model:{origin.get('model')}@{origin['version']}"
    if "run" in origin:
        return f"run:{origin['run']}@{origin.get('step')}"
    return str(origin.get("file") or origin.get("object") or origin.get("snapshot") or "")
