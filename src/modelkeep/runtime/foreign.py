"""A graph in a file of somebody else: run as it stands, once a scan has found nothing but computation in it."""

import os
from pathlib import Path

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat, Unsafe, UsageError
from modelkeep.model.signature import Infos, Signature, TensorInfo
from modelkeep.runtime.predictor import Predictor
from modelkeep.runtime.table import RUNTIMES, Script, Session, readers
from modelkeep.scan import scan

_SAVED_MODEL = "saved_model.pb"
_FORMATS = {"TFLite model": "litert", "ONNX model": "onnx"}
"""Of the formats as the scan names them."""


def is_graph(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a SavedModel, a TFLite or an ONNX file, by its name; its bytes are looked at when it is opened.

    >>> is_graph("digits.tflite"), is_graph("digits.keras")
    (True, False)
    """
    place = Path(path)
    return place.suffix.lower() in {".tflite", ".lite", ".onnx"} or _saved_model(place) is not None


def open_file(
    path: str | os.PathLike[str],
    *,
    runtime: str | None = None,
    threads: int | None = None,
    budget: Budget | None = None,
) -> Predictor:
    """The predictor of a ``.tflite`` or ``.onnx`` file, or of the folder of a SavedModel.

    It takes and gives what the file says, by the names in the file: of a SavedModel its default signature, or its only
    one, loaded as TensorFlow Serving does, without its Python objects. The budget holds for what the scan reads, not
    for what the graph computes.

    Raises:
        NotFound: there is nothing at ``path``.
        Unsafe: the scan found something that is no computation: files, connections, Python, unknown operations.
        LimitExceeded: it is larger than the budget.
        Damaged: the runtime cannot open it.
        UnknownFormat: it is none of these formats.
        UsageError: no runtime of it is installed, or ``runtime`` does not read it; or which of its signatures is meant
            cannot be told.
    """
    place = Path(path)
    report = scan(place, budget=budget)
    if report.verdict != "clean":
        first = report.findings[0]
        text = f"{place}: {first.where}: {first.what}"
        if first.severity == "limit":
            raise LimitExceeded(text)
        if first.severity == "damaged":
            raise Damaged(text, str(place))
        raise Unsafe(
            f"{text} ({first.why}); the graph was not loaded. Its variables alone are safe: modelkeep import, or "
            "mk.load_model(into=model)"
        )
    folder = _saved_model(place)
    found = "savedmodel" if folder is not None else _FORMATS.get(report.kind)
    if found is None:
        raise UnknownFormat(
            f"{place} is no SavedModel, TFLite or ONNX file but {report.kind}; mk.load_model reads layers"
        )
    able = [one for one in readers(found) if one.name == runtime or (runtime is None and not isinstance(one, Script))]
    if not able:
        raise UsageError(f"{place} is {found}, which {runtime} does not read, but {', '.join(_names(found))}")
    chosen = next((one for one in able if one.version() is not None), able[0])
    session = chosen.load(folder or place, threads=threads)
    return Predictor(str(place), _signature(session), f"{chosen.name} {chosen.version()}", session)


def _names(format_name: str) -> list[str]:
    return [one.name for one in RUNTIMES if one.format == format_name]


def _saved_model(place: Path) -> Path | None:
    """The folder of the SavedModel in a folder: itself, or the only version below, as Serving has it."""
    if (place / _SAVED_MODEL).is_file():
        return place
    below = [one.parent for one in place.glob(f"[0-9]*/{_SAVED_MODEL}")]
    return below[0] if len(below) == 1 else None


def _signature(session: Session) -> Signature:
    return Signature(*(_alone(dict(infos)) for infos in (session.inputs, session.outputs)))


def _alone(infos: dict[str, TensorInfo]) -> Infos:
    return next(iter(infos.values())) if len(infos) == 1 else infos
