"""A model, or a checkpoint, as the next version of a name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelkeep.errors import UsageError
from modelkeep.model.card import About, write_card
from modelkeep.model.contents import Contents, answered, examples_part
from modelkeep.model.lineage import parents_of, shown
from modelkeep.model.signature import Signature
from modelkeep.snapshot import Snapshot
from modelkeep.snapshot.dtypes import storage
from modelkeep.state.tree import flatten, unflatten
from modelkeep.store import Parent, Part, Store, Version
from modelkeep.store.resolve import find_version
from modelkeep.store.save import VERSION_SHARDS
from modelkeep.values import Json, Ref, check_name

PARTS = ("architecture", "signature", "model", "optimizer", "examples", "card")
"""The parts of a version's state tree."""


@dataclass(frozen=True, slots=True)
class Card:
    """What its author says of a version.

    >>> Card(licence="apache-2.0", data={"digits": "sklearn 1.6, sha256 5d2c..."}).licence
    'apache-2.0'
    """

    text: str | None = None
    """The card as it should be, Markdown with front matter in the Hugging Face form; None has one written."""
    licence: str | None = None
    """Such as ``"apache-2.0"``."""
    data: Mapping[str, Json] | None = None
    """What it was trained on, such as names and fingerprints of data sets."""


@dataclass(frozen=True, slots=True)
class Request:
    """What `Keep.publish` was asked for."""

    name: str
    example: Any = None
    metrics: Mapping[str, float] | None = None
    card: Card = field(default_factory=Card)
    parents: Sequence[str | Version] = ()
    optimizer: bool = False
    labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None


def publish(store: Store, model: Any, request: Request, environment: Mapping[str, Json]) -> Version:
    """Publish a live model, or what a REF names, as the next version; durable on return.

    Raises:
        InvalidName, NotFound, UsageError, UnsupportedState, StorageError: nothing was published.
    """
    check_name(request.name, "model")
    parents: list[Version | Parent] = [_version(store, parent) for parent in request.parents]
    if isinstance(model, str | Ref | Snapshot | Version):
        return _promoted(store, model, request, environment, parents)
    contents = Contents.of(model, request.example, optimizer=request.optimizer)
    signature = _labelled(contents.tree["signature"], request)
    parents += _grown_from(store, contents.origins, parents)
    # what it shares with the version before it, or else with what it grew from, is not written again
    before = [store.model(request.name).last(), *parents]
    donor = next((store.snapshot(one.snapshot_id) for one in before if one is not None), None)
    sizes = _sizes(contents.tree["model"])
    lineage = _lineage(parents, contents.origins)
    about = _about(request, contents.framework, signature, sizes, lineage)
    tree = {**contents.tree, "signature": signature, "card": request.card.text or write_card(about)}
    meta = _meta(about, request, environment, {"transferred": contents.origins} if contents.origins else {})
    snapshot = store.save(tree, meta=meta, donor=donor, donor_shards=VERSION_SHARDS)
    return _named(store, snapshot, request, parents)


def _promoted(
    store: Store, ref: Any, request: Request, environment: Mapping[str, Json], parents: list[Version | Parent]
) -> Version:
    """A version of what is kept already: not a byte of its tensors is read or written."""
    source = _snapshot(store, ref)
    there = source.structure if isinstance(source.structure, dict) else {}
    missing = [part for part in ("architecture", "signature", "model") if there.get(part) is None]
    if missing:
        raise UsageError(
            f"snapshot {source.short} has no {' and no '.join(missing)}, so no model can be made of it; checkpoints of "
            "mk.keras.fit have them if the model can be described; else load it into your model, and publish that"
        )
    if request.optimizer and there.get("optimizer") is None:
        raise UsageError(f"snapshot {source.short} has no optimizer; leave optimizer=True out")
    taken = ("architecture", "model", *(("optimizer",) if request.optimizer else ()))
    signature = _labelled(there["signature"], request)
    tree: dict[str, Any] = {"signature": signature, **{part: Part(part) for part in taken}}
    if request.example is not None:
        tree["examples"] = _examples(store, source, request.example)
    elif "examples" in there:
        tree["examples"] = Part("examples")
    origin = _origin(source)
    origins = origin.get("transferred")
    parents = [*parents, *_grown_from(store, origins, parents)]
    lineage = _lineage(parents, origins)
    if origin.get("run"):
        lineage = [f"run {origin['run']}, step {origin.get('step')}", *lineage]
    weights = [path for path in source.tensors if path.startswith("model/")]
    counts = [source.grid(path).nbytes // _itemsize(source, path) for path in weights]
    sizes = (sum(counts), sum(source.grid(path).nbytes for path in weights))
    metrics = request.metrics if request.metrics is not None else _metrics(source)
    request = replace(request, metrics=metrics)
    framework = str(source.meta.get("framework", "keras"))
    about = _about(request, framework, signature, sizes, lineage)
    tree["card"] = request.card.text or write_card(about)
    snapshot = store.promote(source, tree, meta=_meta(about, request, environment, origin))
    return _named(store, snapshot, request, parents)


def _named(store: Store, snapshot: Snapshot, request: Request, parents: Sequence[Version | Parent]) -> Version:
    info = {key: snapshot.meta[key] for key in ("framework", "parameters", "lineage") if key in snapshot.meta}
    return store.model(request.name).publish(
        snapshot, metrics=dict(request.metrics or {}), parents=tuple(parents), info=info
    )


def _version(store: Store, parent: str | Version) -> Version:
    return parent if isinstance(parent, Version) else find_version(store, Ref.parse(parent))


def _snapshot(store: Store, ref: Any) -> Snapshot:
    if isinstance(ref, Snapshot):
        return ref
    return store.snapshot(ref.snapshot_id) if isinstance(ref, Version) else store.resolve(ref)


def _examples(store: Store, source: Snapshot, example: Any) -> dict[str, Any]:
    from modelkeep.model.contents import Example
    from modelkeep.model.load import load_version

    if isinstance(example, Example):
        return examples_part(answered(example, lambda _: None))
    from modelkeep.model import keras_model

    model = load_version(store, source)
    return examples_part(answered(example, lambda inputs: keras_model.answers(model, inputs)))


def _labelled(signature: Json, request: Request) -> Json:
    if request.labels is None:
        return signature
    return Signature.from_json(signature).labelled(request.labels).to_json()


def _about(request: Request, framework: str, signature: Json, sizes: tuple[int, int], lineage: Sequence[str]) -> About:
    return About(
        name=request.name,
        framework=framework,
        signature=str(Signature.from_json(signature)),
        parameters=sizes[0],
        nbytes=sizes[1],
        metrics=dict(request.metrics or {}),
        licence=request.card.licence,
        lineage=lineage,
    )


def _meta(
    about: About, request: Request, environment: Mapping[str, Json], origin: Mapping[str, Json]
) -> dict[str, Json]:
    """The metadata of the snapshot; metrics are in the version's document."""
    return {
        "kind": "model",
        "model": request.name,
        "framework": about.framework,
        "parameters": about.parameters,
        "licence": about.licence,
        "data": dict(request.card.data or {}),
        "lineage": dict(origin),
        "environment": dict(environment),
    }


def _origin(source: Snapshot) -> dict[str, Json]:
    """Where the weights come from: the run and the checkpoint, or the version that is published again."""
    if source.meta.get("kind") == "model":
        before = source.meta.get("lineage")
        return {**(before if isinstance(before, dict) else {}), "snapshot": source.id}
    run = {key: source.meta.get(key) for key in ("run", "attempt", "step", "epoch")}
    part = source.structure.get("lineage") if isinstance(source.structure, dict) else None
    return {**run, "snapshot": source.id, **({"transferred": part} if isinstance(part, list) else {})}


def _metrics(source: Snapshot) -> dict[str, float]:
    """The metrics of a checkpoint, as its run has recorded them."""
    found = unflatten(source.meta.get("metrics"), {})
    return {name: float(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _grown_from(store: Store, origins: Json, known: Sequence[Version | Parent]) -> list[Parent]:
    """The versions of this keep that weights were transferred from, but those that are known or were removed."""
    there = {one.snapshot_id for one in known}
    found = [one for one in parents_of(origins, store.id) if one.snapshot_id not in there]
    return [one for one in found if any(one.number == kept.number for kept in store.model(one.model).versions())]


def _lineage(parents: Sequence[Version | Parent], origins: Json) -> list[str]:
    """What a version grew from, for its card."""
    named = [f"model:{one.model}@{one.number}" for one in parents]
    others = [shown(one) for one in origins] if isinstance(origins, list) else []
    return [*named, *(f"weights of {text}" for text in others if text not in named)]


def _sizes(tree: Any) -> tuple[int, int]:
    """Values and bytes of the weights."""
    arrays = flatten(tree).arrays.values()
    return sum(array.size for array in arrays), sum(array.nbytes for array in arrays)


def _itemsize(source: Snapshot, path: str) -> int:
    return storage(source.tensors[path].dtype).itemsize
