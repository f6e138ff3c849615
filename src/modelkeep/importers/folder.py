"""A folder that somebody else has filled: names are looked up within it, and links do not lead out of it."""

import os
import re
import stat

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, NotFound, StorageError, Unsafe
from modelkeep.importers.source import File, Source, read_bytes
from modelkeep.snapshot.canonical import parse_json
from modelkeep.values import Json

_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


def list_names(folder: str, budget: Budget) -> list[str]:
    """The names in a folder, sorted; counted before all of them are held.

    Raises:
        LimitExceeded: more than the budget's entries.
        StorageError: it cannot be listed.
    """
    names: list[str] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                names.append(entry.name)
                budget.check("entries", len(names), folder)
    except OSError as error:
        raise StorageError(f"{folder}: this folder cannot be listed: {error}") from None
    return sorted(names)


def list_files(folder: str, below: str, budget: Budget) -> list[str]:
    """The paths within a folder of all that is no folder at or under ``below``, sorted; links are not followed.

    Raises:
        LimitExceeded: more of them, or deeper, than the budget allows.
        StorageError: a folder cannot be listed.
    """
    found: list[str] = []
    open_ = [below] if os.path.isdir(os.path.join(folder, below)) else []
    while open_:
        inner = open_.pop()
        budget.check("depth", inner.count("/") + 1, folder)
        for name in list_names(os.path.join(folder, inner), budget):
            path = os.path.join(folder, inner, name)
            (open_ if os.path.isdir(path) and not os.path.islink(path) else found).append(f"{inner}/{name}")
        budget.check("entries", len(found) + len(open_), folder)
    return sorted(found)


def check_member(name: object, where: str) -> str:
    """``name`` when it is the plain name of something in the same folder.

    Raises:
        Unsafe: an absolute path, one with folders or ``..``, or no text at all.

    >>> check_member("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    'model-00001-of-00002.safetensors'
    >>> check_member("../secret", "index.json")
    Traceback (most recent call last):
        ...
    modelkeep.errors.Unsafe: index.json: it names '../secret', ...
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise Unsafe(f"{where}: it names {name!r:.200}, which is no plain file name beside it; nothing was opened")
    return name


def open_member(folder: str, name: str) -> File:
    """Open a file of a folder. A symbolic link must end within the folder (or the blobs of a Hugging Face cache).

    Raises:
        Unsafe: a link that leads out.
        NotFound: it is not there.
    """
    path = os.path.join(folder, name)
    try:
        linked = stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        raise NotFound(f"{path}: this file is missing; the folder is not complete") from None
    except OSError as error:
        raise StorageError(f"{path}: this file cannot be looked at: {error}") from None
    if not linked:
        return File(path, follow=False)
    target = os.path.realpath(path)
    if not any(target.startswith(os.path.join(root, "")) for root in _roots(folder)):
        raise Unsafe(f"{path}: this link leads out of its folder; copy the file itself there (cp -L)")
    return File(target, follow=False)


def _roots(folder: str) -> list[str]:
    """Where links may end: in the folder, and for REPOSITORY/snapshots/REVISION also in REPOSITORY/blobs."""
    real = os.path.realpath(folder)
    above = os.path.dirname(real)
    cached = os.path.basename(above) == "snapshots"
    return [real, os.path.join(os.path.dirname(above), "blobs")] if cached else [real]


def read_text(source: Source, budget: Budget) -> str:
    """The whole of a source as text.

    Raises:
        LimitExceeded: it is longer than the budget's text.
        Damaged: it is not UTF-8.
    """
    budget.check("text", source.size, source.name)
    try:
        return read_bytes(source, 0, source.size).decode()
    except UnicodeDecodeError as error:
        raise Damaged(f"{source.name}: this is not UTF-8 text: {error}", source.name) from None


def read_json(source: Source, budget: Budget) -> Json:
    """The whole of a source as JSON, parsed with suspicion.

    Raises:
        LimitExceeded: longer or deeper than the budget allows.
        Damaged: it is not JSON, has duplicate keys, or numbers that JSON does not have.
    """
    budget.check("text", source.size, source.name)
    data = read_bytes(source, 0, source.size)
    return parse_json(data, key=source.name, limit_bytes=budget.text, max_depth=budget.depth)


def read_weight_map(index: Source, budget: Budget) -> tuple[dict[str, list[str]], Json]:
    """The ``weight_map`` of an index, name -> files beside it, and the ``metadata`` of the index.

    Raises:
        Unsafe: a name that is no plain file name.
        Damaged: no such map.
    """
    document = read_json(index, budget)
    names = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(names, dict):
        raise Damaged(f"{index.name}: it has no weight_map that maps names to files", index.name)
    budget.check("entries", len(names), index.name)
    found = {
        name: [check_member(file, index.name) for file in (files if isinstance(files, list) else [files])]
        for name, files in names.items()
    }
    return found, document.get("metadata", {})
