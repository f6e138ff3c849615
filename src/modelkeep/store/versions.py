"""One version of a model as a value, and as the document that is kept of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from modelkeep.store.documents import (
    decode_metrics,
    encode_metrics,
    float_of,
    int_of,
    list_of,
    mapping_of,
    snapshot_id_of,
)
from modelkeep.values import Json, SnapshotId


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that another one grew from."""

    model: str
    number: int
    snapshot_id: SnapshotId
    """Its snapshot: that stays true in a keep which the parent itself was not copied to."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model: a name for a snapshot, and what was known of it when it was published."""

    model: str
    number: int
    """From 1, in the order of publishing; never used twice."""
    snapshot_id: SnapshotId
    time: float
    """When it was published: seconds since the epoch, by the store's clock."""
    metrics: Mapping[str, float]
    parents: tuple[Parent, ...]
    info: Mapping[str, Json]
    """Whatever else was given."""
    removed: bool = False
    """True when it was removed, and its snapshot may be gone; the record of it stays."""

    @property
    def ref(self) -> str:
        """Its name, such as ``model:digits@3``."""
        return f"model:{self.model}@{self.number}"

    def as_parent(self) -> Parent:
        """What a version that grows from this one says of it."""
        return Parent(self.model, self.number, self.snapshot_id)


def version_json(version: Version) -> dict[str, Json]:
    """The document of a version but for its number, which its journal adds."""
    return {
        "model": version.model,
        "snapshot": version.snapshot_id,
        "time": version.time,
        "metrics": encode_metrics(version.metrics),
        "parents": [
            {"model": one.model, "version": one.number, "snapshot": one.snapshot_id} for one in version.parents
        ],
        "info": dict(version.info),
    }


def version_of(document: Mapping[str, Json], model: str, *, removed: bool) -> Version:
    """The version of ``model`` that a document describes. Raises KeyError, TypeError, Damaged for what is none."""
    if document["model"] != model:
        raise TypeError(f"it is of another model, {document['model']!r:.60}")
    return Version(
        model=model,
        number=int_of(document["number"]),
        snapshot_id=snapshot_id_of(document["snapshot"]),
        time=float_of(document["time"]),
        metrics=decode_metrics(document["metrics"]),
        parents=tuple(_parent_of(mapping_of(one)) for one in list_of(document["parents"])),
        info=mapping_of(document["info"]),
        removed=removed,
    )


def _parent_of(document: Mapping[str, Json]) -> Parent:
    model = document["model"]
    if not isinstance(model, str):
        raise TypeError("a parent has no name of a model")
    return Parent(model, int_of(document["version"]), snapshot_id_of(document["snapshot"]))
