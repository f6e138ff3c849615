"""The proof of an export: opened in its own runtimes, it answers the examples of the version as the model did."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.backend import open_backend
from modelkeep.errors import Damaged, NotExact, UsageError
from modelkeep.model.signature import Signature, flat, named
from modelkeep.runtime.table import Arrays, Runtime, Script, Session, readers
from modelkeep.state.paths import segment
from modelkeep.store import Store
from modelkeep.values import SnapshotId

_FLEX = "Flex delegate"
"""What LiteRT names where an operation is one that only this has; no package for Python brings it."""

_CALLS, _SECONDS = 5, 1.0
"""The latency is the least of so many calls, fewer where they take longer than that together."""


def prove(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run an artifact on the examples of a snapshot, all of them at once and the first alone, and compare.

    ``job`` has ``path``, ``format``, ``keep``, ``snapshot``, ``tolerance`` and perhaps ``batch``, the only size of the
    first axis that the artifact takes, or ``signature``, a further one of the file, whose examples the snapshot has.
    With ``flex`` the runtime may lack what only the Flex delegate has: it is told as ``cannot``, and nothing is proven.

    Returns: the proof: ``runtimes``, each with its version and what differed, and ``bytes``. With ``job["each"]`` what
    differed for each output, and nothing is raised for it.

    Raises:
        NotExact: an answer differs by more than is tolerated, has another name, or is not there.
        UsageError: no runtime of the format is installed.
        Damaged: the runtime cannot open it.
    """
    wanted = _examples(job)
    path = Path(job["path"])
    told = [_told(runtime, path, wanted, job) for runtime in readers(job["format"]) if _counts(runtime, job)]
    return {"format": job["format"], "tolerance": job["tolerance"], "bytes": _size(path), "runtimes": told}


def _counts(runtime: Runtime, job: Mapping[str, Any]) -> bool:
    if isinstance(runtime, Script) and runtime.fixed and job.get("batch") is None:
        return False
    if job.get("signature") is not None:
        return runtime.signatures
    return not runtime.second or (runtime.version() is not None and not job.get("each"))


def _examples(job: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
    store = Store.open(open_backend(job["keep"], create=False), create=False)
    snapshot = store.snapshot(SnapshotId(job["snapshot"]))
    structure: Any = snapshot.structure
    root, name = "", job.get("signature")
    if name is not None:
        structure, root = structure["signatures"][name], f"signatures/{segment(name)}/"
    signature = Signature.from_json(structure["signature"])
    loaded: Any = store.load(snapshot, select=[f"{root}examples/**"])
    examples = (loaded["signatures"][name] if name is not None else loaded)["examples"]
    inputs = flat(signature.inputs, examples["inputs"])
    fitted = {name: _fitted(inputs[name], info.dtype) for name, info in named(signature.inputs).items()}
    return fitted, {name: np.asarray(one) for name, one in flat(signature.outputs, examples["outputs"]).items()}


def _fitted(value: Any, dtype: str) -> "np.ndarray[Any, Any]":
    array = np.asarray(value)
    if dtype == "string":
        texts = [one if isinstance(one, bytes) else str(one).encode() for one in array.flat]
        found = np.empty(array.shape, object)
        found.reshape(-1)[:] = texts
        return found
    return np.asarray(array, np.dtype(dtype), order="C")


def _told(runtime: Runtime, path: Path, examples: tuple[Arrays, Arrays], job: Mapping[str, Any]) -> dict[str, Any]:
    about = {"runtime": runtime.name, "version": runtime.version()}
    try:
        began = time.perf_counter()
        run = runtime.load(path, signature=job.get("signature"))
        loading = time.perf_counter() - began
        batches = [_batch(run, one, job, f"{runtime.name} {about['version']}") for one in _batches(examples, job)]
    except (Damaged, UsageError) as error:
        if not runtime.second and not (job.get("flex") and _FLEX in str(error)):
            raise
        return {**about, "cannot": str(error)[:300]}
    except NotExact as error:
        if not runtime.second:
            raise
        return {**about, "differs": str(error)[:300]}
    return {**about, "loading_ms": round(loading * 1e3, 3), "batches": batches}


def _batches(examples: tuple[Arrays, Arrays], job: Mapping[str, Any]) -> list[tuple[Arrays, Arrays]]:
    """The examples whole and the first alone; of a fixed size as often as they fill it, the last time by repeating."""
    inputs, outputs = examples
    rows = min((len(one) for one in inputs.values() if one.ndim), default=1)
    if any(one.ndim == 0 or len(one) != rows for one in [*inputs.values(), *outputs.values()]):
        return [examples]  # an axis that does not count examples
    fixed = job.get("batch")
    if fixed is None:
        chosen_rows = [[*range(rows)], [0]] if rows > 1 else [[0], [0, 0]]
    else:
        chosen_rows = [[index % rows for index in range(first, first + fixed)] for first in range(0, rows, fixed)]
    return [tuple({name: one[chosen] for name, one in part.items()} for part in examples) for chosen in chosen_rows]  # type: ignore[misc]


def _batch(run: Session, examples: tuple[Arrays, Arrays], job: Mapping[str, Any], who: str) -> dict[str, Any]:
    inputs, wanted = examples
    found = run(inputs)
    rows = len(next(iter(inputs.values()))) if inputs else 0
    if found.keys() != wanted.keys():
        raise NotExact(f"{who} gives {', '.join(sorted(found))}, and the model {', '.join(sorted(wanted))}")
    gaps = {name: _gap(wanted[name], found[name], f"{who}, {rows} rows: {name}") for name in wanted}
    if job.get("each"):
        return {"batch": rows, "each": {name: gap["max_rel"] for name, gap in gaps.items()}}
    for name, gap in gaps.items():
        if not gap["max_rel"] <= job["tolerance"]:
            raise NotExact(
                f"{who}, {rows} rows: {name} differs by {gap['max_abs']:.3g}, which is {gap['max_rel']:.3g} of its "
                f"largest value, and {job['tolerance']:.3g} is tolerated"
            )
    took: list[float] = []
    while len(took) < _CALLS and sum(took) < _SECONDS:
        began = time.perf_counter()
        run(inputs)
        took.append(time.perf_counter() - began)
    worst = {key: max(gap[key] for gap in gaps.values()) for key in ("max_abs", "max_rel")}
    top = min((gap["top"] for gap in gaps.values() if gap["top"] is not None), default=None)
    return {"batch": rows, **worst, "top": top, "call_ms": round(min(took) * 1e3, 4)}


def _gap(wanted: "np.ndarray[Any, Any]", found: "np.ndarray[Any, Any]", where: str) -> dict[str, Any]:
    """How two answers differ: absolutely, relative to the largest value, and how often the top answer is the same."""
    if wanted.shape != found.shape:
        raise NotExact(f"{where} is of shape {list(found.shape)}, and {list(wanted.shape)} was recorded")
    if "O" in {wanted.dtype.kind, found.dtype.kind}:
        same = [_text(one) for one in wanted.flat] == [_text(one) for one in found.flat]
        return {"max_abs": 0.0 if same else 1.0, "max_rel": 0.0 if same else 1.0, "top": float(same)}
    one, other = wanted.astype("float64"), found.astype("float64")
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        raise NotExact(f"{where} has NaN or infinities in other places")
    finite = np.isfinite(one)
    gap = float(np.max(np.abs(one - other), initial=0.0, where=finite))
    scale = float(np.max(np.abs(one), initial=0.0, where=finite)) or 1.0
    top = None
    if one.ndim > 1 and one.shape[-1] > 1 and one.size:
        top = float(np.mean(np.argmax(one, -1) == np.argmax(other, -1)))
    return {"max_abs": gap, "max_rel": gap / scale, "top": top}


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)
