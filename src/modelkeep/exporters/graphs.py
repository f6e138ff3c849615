"""A model as a graph of another runtime: found again where the version has it, else made, proven, and kept with it."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.errors import Damaged, ModelkeepError, NotExact, UsageError
from modelkeep.exporters.child import ask
from modelkeep.exporters.formats import FORMATS
from modelkeep.exporters.options import Options
from modelkeep.exporters.source import Source
from modelkeep.runtime.artifact import BETWEEN, WHOLE, proof_of, restore
from modelkeep.store import Export, Store, Version
from modelkeep.values import Json

_CONVERTING, _PROOF = "modelkeep.exporters.converting", "modelkeep.exporters.proof"

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
    _check(request)
    with _place(source) as (keep, snapshot), tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        job = _job(request, keep, snapshot, Path(scratch) / path.name, scratch)
        ask(f"{_CONVERTING}:convert", job, environment=_environment(request.to))
        try:
            proof = ask(f"{_PROOF}:prove", job)
        except NotExact as error:
            raise NotExact(f"{source.ref} as {request.to}: {error}{_first_layer(request, job, scratch)}") from None
        except (Damaged, UsageError) as error:
            raise type(error)(f"{source.ref} as {request.to}: {error}") from None
        os.rename(job["out"], path)
    if version is not None:
        _keep(source.store, version, request, proof, path)


def verify(store: Store, source: Source, export: Export) -> dict[str, Any]:
    """Prove a kept export again, with the runtimes of today; returns the new proof. Raises what `make` does."""
    before = proof_of(store, export)
    with _place(source) as (keep, snapshot), tempfile.TemporaryDirectory(prefix="modelkeep-verify-") as scratch:
        path = Path(scratch) / f"artifact{FORMATS[export.format].suffix}"
        restore(store, export, path)
        job = {
            "keep": keep, "snapshot": snapshot, "path": str(path), "format": export.format,
            "tolerance": before["tolerance"], "batch": export.options.get("batch"),
        }  # fmt: skip
        return ask(f"{_PROOF}:prove", job)


def _asked(request: Request) -> dict[str, Any]:
    given = {"tolerance": request.tolerance} if request.tolerance is not None else {}
    return {**request.options.to_json(), **given}


def _check(request: Request) -> None:
    source = request.source
    if source.framework != "keras":
        raise UsageError(
            f"{source.ref} is a {source.framework} model, and {request.to} is written from Keras models; export it to "
            "safetensors, huggingface, torch or npz"
        )
    if source.part("examples") is None:
        raise UsageError(
            f"{source.ref} has no examples, on which an export is proven; publish it with example=x[:4]: "
            f"keep.publish(NAME, {source.ref!r}, example=x[:4])"
        )
    missing = [one for one in FORMATS[request.to].packages if not _is_installed(one)]
    if missing:
        way = f"pip install 'modelkeep[{FORMATS[request.to].extra}]' brings it"
        raise UsageError(f"{request.to} is written with {', '.join(missing)}, which is not installed; {way}")


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@contextmanager
def _place(source: Source) -> Iterator[tuple[str, str]]:
    """A keep that another process can open, with the snapshot: its own, or a copy of one in memory."""
    if not source.store.backend.url.startswith("memory:"):
        yield source.store.backend.url, source.snapshot.id
        return
    from modelkeep.backend import open_backend

    with tempfile.TemporaryDirectory(prefix="modelkeep-copy-") as folder:
        store = Store.open(open_backend(folder, create=True))
        tree = source.store.load(source.snapshot)
        yield folder, store.save({name: part for name, part in tree.items() if name != "optimizer"}).id


def _job(request: Request, keep: str, snapshot: str, path: Path, scratch: str) -> dict[str, Any]:
    objects = None
    if request.source.custom_objects:
        objects = os.path.join(scratch, "custom_objects")
        _pass_on(request.source.custom_objects, objects)
    return {
        "keep": keep, "snapshot": snapshot, "out": str(path), "path": str(path), "format": request.to,
        "module": FORMATS[request.to].path, "options": asdict(request.options), "custom_objects": objects,
        "tolerance": _tolerance(request), "batch": request.options.batch,
    }  # fmt: skip


def _pass_on(objects: Mapping[str, Any], path: str) -> None:
    """The classes of the caller, for the process that builds the model."""
    try:
        import cloudpickle
    except ImportError:
        raise UsageError(
            "custom_objects go to the converter's process by cloudpickle; pip install 'modelkeep[export]' brings it"
        ) from None
    with open(path, "wb") as file:
        cloudpickle.dump(dict(objects), file)


def _environment(to: str) -> dict[str, str]:
    return {"KERAS_BACKEND": FORMATS[to].backend, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}


def _tolerance(request: Request) -> float:
    if request.tolerance is not None:
        return request.tolerance
    computed = "half" if _HALF.search(repr(request.source.architecture).replace("'", '"')) else "float32"
    return max(_TOLERANCES[computed], _TOLERANCES[request.options.quantize or "float32"])


def _first_layer(request: Request, job: Mapping[str, Any], scratch: str) -> str:
    """Where an export begins to differ: the model once more, with the output of every layer."""
    path = Path(scratch) / f"layers{FORMATS[request.to].suffix}"
    try:
        opened = {**job, "out": str(path), "path": str(path), "scratch": f"{scratch}/keep", "each": True}
        layers = ask(f"{_CONVERTING}:probe", opened, environment=_environment(request.to))
        opened |= {"keep": f"{scratch}/keep", "snapshot": layers["snapshot"]}
        found = ask(f"{_PROOF}:prove", opened)
    except ModelkeepError as error:
        return f"; which layer begins it could not be told: {error!s:.200}"
    for name, layer in layers["layers"].items():
        for runtime in found["runtimes"]:
            worst = max(batch["each"][name] for batch in runtime["batches"])
            if not worst <= job["tolerance"]:
                return f"; the first layer whose output differs is {layer!r}, by {worst:.3g} of its largest value"
    return "; with every layer's output opened none differs, so what differs is behind the last layer or in the file"


def _keep(store: Store, version: Version, request: Request, proof: Mapping[str, Any], path: Path) -> None:
    files = {name: np.frombuffer(one.read_bytes(), np.uint8) for name, one in _files(path)}
    meta: dict[str, Json] = {
        "kind": "export", "model": version.model, "version": version.number, "format": request.to,
        "of": version.snapshot_id, "made": time.time(),
    }  # fmt: skip
    snapshot = store.save({"files": files, "options": _asked(request), "proof": dict(proof)}, meta=meta)
    store.model(version.model).exports(version.number).add(request.to, _asked(request), snapshot.id)


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield WHOLE, path
        return
    for one in sorted(path.rglob("*")):
        if one.is_file():
            yield BETWEEN.join(one.relative_to(path).parts), one
