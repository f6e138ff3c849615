"""The scan of one file or folder: its format by its bytes, its findings by the module of that format."""

import os
from pathlib import Path

from modelkeep.budget import Budget
from modelkeep.errors import LimitExceeded, NotFound, UnknownFormat
from modelkeep.scan import folders, kinds
from modelkeep.scan.findings import Finding, ScanReport, beyond, gravest_first
from modelkeep.scan.source import Context, Source, Tally


def scan(path: str | Path, *, budget: Budget | None = None) -> ScanReport:
    """Report what a file, or all files of a folder, would do if their own libraries loaded them.

    Nothing is loaded, run, unpacked to the disk, or opened because a file names it (data files of an ONNX model in its
    own folder are looked for, not read). Memory stays within the budget: what asks for more is a finding.

    Args:
        path: a file or a folder.
        budget: the limits; the default is that of every loader.

    Raises:
        NotFound: there is nothing at ``path``.
        UnknownFormat: a file whose bytes are of no known format; nothing can be said about it.
        UsageError: h5py, which HDF5 needs, is not installed.
        StorageError: the storage refused.

    >>> import pickle, tempfile, pathlib
    >>> place = pathlib.Path(tempfile.mkdtemp()) / "weights.pkl"
    >>> _ = place.write_bytes(pickle.dumps(print))
    >>> report = scan(place)
    >>> report.verdict, report.findings[0].what
    ('unsafe', 'imports builtins.print')
    """
    root = Path(path)
    tally = Tally()
    context = Context(budget or Budget(), _look, tally)
    if root.is_dir():
        found = folders.findings(root, context)
        return ScanReport(str(path), "folder", tuple(gravest_first(found)), tally.files)
    if not root.exists():
        raise NotFound(f"{path}: there is no such file or folder")
    with folders.open_regular(root) as file:
        source = Source(root.name, file, os.fstat(file.fileno()).st_size, folder=root.absolute().parent)
        kind = kinds.kind_of(source)
        found = _look(source, context)
        if kind is None and not found:
            raise UnknownFormat(f"{path}: its bytes are of no format that can be scanned, so nothing is said about it")
        tally.files += 1
        return ScanReport(str(path), kind.title if kind else "unknown", tuple(gravest_first(found)), tally.files)


def _look(source: Source, context: Context) -> list[Finding]:
    """Scan one file or member; one that exceeds the budget is a finding, and does not end the scan of the others."""
    found: list[Finding] = []
    try:
        kind = kinds.kind_of(source)
        found.extend(kinds.of_name(source, kind))
        if kind is not None:
            found.extend(kind.scan(source, context))
        found.extend(kinds.of_second_format(source, kind, context))
    except LimitExceeded as error:
        found.append(beyond(source.name, str(error)))
    return found
