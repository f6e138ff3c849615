"""A model as a graph of another runtime: found again where the version has it, else made, proven, and kept with it."""

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.backend import open_backend
from modelkeep.errors import Damaged, ModelkeepError, NotExact, UsageError
from modelkeep.exporters.child import ask
from modelkeep.exporters.formats import FORMATS, Route
from modelkeep.exporters.options import Options
from modelkeep.exporters.source import Source
from modelkeep.runtime.artifact import BETWEEN, WHOLE, proof_of, restore
from modelkeep.snapshot import Snapshot
from modelkeep.store import Export, Store, Version
from modelkeep.values import Json, SnapshotId

_CONVERT, _PROBE, _PROVE = (
    f"modelkeep.exporters.{one}" for one in ("converting:convert", "probing:probe", "proof:prove")
)

_TOLERANCES = {"float32": 1e-4, "half": 2e-2, "float16": 2e-2, "dynamic": 0.1, "int8": 0.2, "uint8": 0.1}
"""What may differ, as a share of the largest value of an output: by what the model, or the export, computes in."""

_HALF = re.compile(r'"(?:mixed_)?b?float16"|"int[48]_from|_float8')


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    source: Source
    version: Version | None
    """None for a checkpoint, whose exports are not kept."""
    to: str
    options: Options
    model: Any = None
    """What computes it, where its code is not kept: a torch module; of jax a function and parameters like its own."""
    tolerance: float | None = None
    again: bool = False


def make(request: Request, path: Path) -> None:
    """Write the artifact to ``path``, proven.

    Raises:
        UsageError: the format cannot hold the model, a runtime is missing, or there are no examples to prove it on.
        NotExact: it answers otherwise than the model; with the first layer that does.
        Damaged, StorageError: see `Keep.export`.
    """
    source, version = request.source, request.version
    if version is not None and not request.again:
        found = source.store.model(version.model).exports(version.number).find(request.to, _asked(request))
        if found is not None:
            restore(source.store, found, path)
            return
    routes = _routes(request)
    with _place(source.store, source.snapshot) as place:
        proven = _first_proven(request, routes, place, path)
    if version is not None:
        _keep(source.store, version, request, proven, path)


def _first_proven(request: Request, routes: list[Route], place: tuple[str, str], path: Path) -> dict[str, Any]:
    """Go each way until what was written is proven; raises what the first way did where none leads there.

    Returns: the proof and the further signatures, as they are kept.
    """
    first: ModelkeepError | None = None
    for route in routes:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
            job = _job(request, route, place, Path(scratch) / path.name, scratch)
            try:
                told = ask(_CONVERT, job, environment=_environment(route))
                proof = _proof(request, route, job, scratch)
                signatures = _signatures(job, told.get("snapshot"))
                if signatures:
                    further = {"keep": job["scratch"], "snapshot": told["snapshot"]}
                    proof["signatures"] = _further(job | further, signatures)
            except (NotExact, Damaged, UsageError) as error:
                first = first or type(error)(f"{request.source.ref} as {request.to}: {error}")
                continue
            os.rename(job["out"], path)
            return {"proof": proof, "signatures": signatures}
    assert first is not None
    raise first


def _signatures(job: Mapping[str, Any], snapshot: str | None) -> dict[str, Any]:
    """What the converter has kept of further signatures: what they take and give, examples and answers, by name."""
    if snapshot is None:
        return {}
    store = Store.open(open_backend(job["scratch"], create=False), create=False)
    found: dict[str, Any] = store.load(store.snapshot(SnapshotId(snapshot)))["signatures"]
    return found


def _further(job: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What the runtimes say of further signatures, by name."""
    return {name: ask(_PROVE, {**job, "signature": name})["runtimes"] for name in names}


def _proof(request: Request, route: Route, job: Mapping[str, Any], scratch: str) -> dict[str, Any]:
    try:
        return ask(_PROVE, job)
    except NotExact as error:
        raise NotExact(f"{error}{_first_layer(request, route, job, scratch)}") from None


def verify(store: Store, source: Source, export: Export) -> dict[str, Any]:
    """Prove a kept export again, with the runtimes of today; returns the new proof. Raises what `make` does."""
    before = proof_of(store, export)
    with _place(store, source.snapshot) as place, tempfile.TemporaryDirectory(prefix="modelkeep-verify-") as scratch:
        keep, snapshot = place
        path = Path(scratch) / f"artifact{FORMATS[export.format].suffix}"
        restore(store, export, path)
        job = {
            "keep": keep, "snapshot": snapshot, "path": str(path), "format": export.format,
            "tolerance": before["tolerance"], "batch": export.options.get("batch"),
            "flex": export.options.get("flex", False),
        }  # fmt: skip
        proof = ask(_PROVE, job)
        names = before.get("signatures")
        if isinstance(names, dict):
            with _place(store, store.snapshot(export.snapshot_id)) as (keep, snapshot):
                proof["signatures"] = _further({**job, "keep": keep, "snapshot": snapshot}, names)
        return proof


def _asked(request: Request) -> dict[str, Any]:
    given = {"tolerance": request.tolerance} if request.tolerance is not None else {}
    return {**request.options.to_json(), **given}


def _routes(request: Request) -> list[Route]:
    """The ways to the format that the model can go. Raises UsageError where there is none."""
    source, routes = request.source, FORMATS[request.to].routes
    if source.framework == "keras":
        trained = source.architecture.get("backend")
        able = [one for at, one in enumerate(routes) if at == 0 or one.framework == trained]
    else:
        able = [one for one in routes if one.framework == _home(source)]
        _check_model(request, able)
    if source.part("examples") is None:
        raise UsageError(
            f"{source.ref} has no examples, on which an export is proven; publish it with example=x[:4]: "
            f"keep.publish(NAME, {source.ref!r}, example=x[:4])"
        )
    missing = {route: [one for one in route.packages if not _is_installed(one)] for route in able}
    if all(missing.values()):
        way = f"pip install 'modelkeep[{able[0].extra}]' brings it"
        raise UsageError(f"{request.to} is written with {', '.join(missing[able[0]])}, which is not installed; {way}")
    return [route for route in able if not missing[route]]


def _home(source: Source) -> str:
    """The framework in which a model that is no Keras model computes."""
    return "jax" if source.framework == "flax" else source.framework


def _check_model(request: Request, able: list[Route]) -> None:
    source, framework = request.source, request.source.framework
    if not able:
        graphs = [name for name, one in FORMATS.items() if any(way.framework == _home(source) for way in one.routes)]
        raise UsageError(
            f"{source.ref} is a {framework} model, and {request.to} is written from Keras models; export it to "
            f"{', '.join([*graphs, 'safetensors', 'huggingface', 'torch'])} or npz"
        )
    if request.options.signatures:
        raise UsageError(f"further signatures are outputs of Keras layers, and {source.ref} is a {framework} model")
    if request.model is None:
        wanted = "(function, parameters), a function of these and inputs" if framework == "jax" else "YourModule(...)"
        raise UsageError(f"the code of {source.ref}, a {framework} model, is not kept; in Python, pass model={wanted}")


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@contextmanager
def _place(store: Store, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """A keep that another process can open, with the snapshot: its own, or a copy of one in memory."""
    if not store.backend.url.startswith("memory:"):
        yield store.backend.url, snapshot.id
        return
    with tempfile.TemporaryDirectory(prefix="modelkeep-copy-") as folder:
        copy = Store.open(open_backend(folder, create=True))
        tree = store.load(snapshot)
        yield folder, copy.save({name: part for name, part in tree.items() if name != "optimizer"}).id


def _job(request: Request, route: Route, place: tuple[str, str], path: Path, scratch: str) -> dict[str, Any]:
    code = None
    if request.source.custom_objects or request.model is not None:
        code = os.path.join(scratch, "code")
        _pass_on({"custom_objects": dict(request.source.custom_objects), "model": request.model}, code)
    keep, snapshot = place
    return {
        "keep": keep, "snapshot": snapshot, "out": str(path), "path": str(path), "format": request.to,
        "framework": route.framework, "module": f"modelkeep.exporters.{route.module}",
        "options": asdict(request.options), "code": code, "tolerance": _tolerance(request),
        "batch": request.options.batch, "flex": request.options.flex, "scratch": f"{scratch}/keep",
    }  # fmt: skip


def _pass_on(code: Mapping[str, Any], path: str) -> None:
    """The classes and the model of the caller, for the process that writes the graph."""
    try:
        import cloudpickle
    except ImportError:
        raise UsageError(
            "custom_objects= and model= go to the converter's process by cloudpickle; pip install 'modelkeep[export]' "
            "brings it"
        ) from None
    with open(path, "wb") as file:
        cloudpickle.dump(code, file)


def _environment(route: Route) -> dict[str, str]:
    return {"KERAS_BACKEND": route.framework, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}


def _tolerance(request: Request) -> float:
    if request.tolerance is not None:
        return request.tolerance
    computed = "half" if _HALF.search(repr(request.source.architecture).replace("'", '"')) else "float32"
    return max(_TOLERANCES[computed], _TOLERANCES[request.options.quantize or "float32"])


def _first_layer(request: Request, route: Route, job: Mapping[str, Any], scratch: str) -> str:
    """Where an export begins to differ: the model once more, with the output of every layer."""
    if request.source.framework != "keras":
        return ""
    path = Path(scratch) / f"layers{FORMATS[request.to].suffix}"
    try:
        opened = {**job, "out": str(path), "path": str(path), "each": True}
        layers = ask(_PROBE, opened, environment=_environment(route))
        opened |= {"keep": job["scratch"], "snapshot": layers["snapshot"]}
        found = ask(_PROVE, opened)
    except ModelkeepError as error:
        return f"; which layer begins it could not be told: {error!s:.200}"
    for name, layer in layers["layers"].items():
        for runtime in found["runtimes"]:
            worst = max(batch["each"][name] for batch in runtime["batches"])
            if not worst <= job["tolerance"]:
                return f"; the first layer whose output differs is {layer!r}, by {worst:.3g} of its largest value"
    return "; with every layer's output opened none differs, so what differs is behind the last layer or in the file"


def _keep(store: Store, version: Version, request: Request, proven: Mapping[str, Any], path: Path) -> None:
    files = {name: np.frombuffer(one.read_bytes(), np.uint8) for name, one in _files(path)}
    meta: dict[str, Json] = {
        "kind": "export", "model": version.model, "version": version.number, "format": request.to,
        "of": version.snapshot_id, "made": time.time(),
    }  # fmt: skip
    snapshot = store.save({"files": files, "options": _asked(request), **proven}, meta=meta)
    store.model(version.model).exports(version.number).add(request.to, _asked(request), snapshot.id)


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield WHOLE, path
        return
    for one in sorted(path.rglob("*")):
        if one.is_file():
            yield BETWEEN.join(one.relative_to(path).parts), one
