"""How what is exported comes to stand under its name: whole, proven and durable."""

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from modelkeep.errors import AlreadyExists, ModelkeepError, NotExact, NotFound, StorageError
from modelkeep.exporters.formats import FORMATS
from modelkeep.exporters.source import Source

Write = Callable[[Path], None]
"""Writes what is exported to a path, and raises where it is not proven."""


def export(out: Path, suffix: str, write: Write, *, overwrite: bool = False) -> Path:
    """Have something written and proven beside ``out``, and only then give it that name.

    Raises:
        AlreadyExists: something is called ``out``, and ``overwrite`` is False.
        NotExact: what was read back is not what was written; nothing is called ``out``.
        StorageError: it could not be written; nothing is called ``out``.
    """
    if not overwrite and os.path.lexists(out):
        raise AlreadyExists(f"{out} is there already; choose another path, or pass overwrite=True (--overwrite)")
    if not out.parent.is_dir():
        raise NotFound(f"{out.parent}: there is no such folder; make it first")
    temporary = out.with_name(f".{secrets.token_hex(4)}.{out.name.removesuffix(suffix)}{suffix}")
    try:
        write(temporary)
        _settle(temporary, out, overwrite)
    except ModelkeepError:
        raise
    except OSError as error:
        raise StorageError(f"{out}: it could not be written: {error.strerror or error}; nothing was left") from error
    finally:
        _remove(temporary)
    return out


def write_weights(source: Source, to: str, path: Path) -> None:
    """Write a format that a framework reads, and read it back with the format's own library.

    Raises:
        UsageError: one that this model cannot have.
        NotExact: what was read back is not what was written.
    """
    module = import_module(f"modelkeep.exporters.{FORMATS[to].module}")
    module.write(source, path)
    try:
        module.check(source, path)
    except (ModelkeepError, OSError):
        raise
    except Exception as error:  # of whichever library it is that cannot read it
        raise NotExact(f"{source.ref}: what was written cannot be read back: {error!s:.600}") from error


def _settle(temporary: Path, out: Path, overwrite: bool) -> None:
    """Make what was written durable, and give it its name, which nobody else's file loses."""
    for path in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
        _sync(path)
    if overwrite and os.path.lexists(out):
        aside = out.with_name(f".{secrets.token_hex(4)}.{out.name}.old")
        os.rename(out, aside)
        try:
            os.rename(temporary, out)
        except BaseException:
            os.rename(aside, out)
            raise
        _remove(aside)
    else:
        _rename_new(temporary, out)
    _sync(out.parent)


def _rename_new(temporary: Path, out: Path) -> None:
    taken = AlreadyExists(f"{out} has appeared meanwhile; choose another path, or pass overwrite=True (--overwrite)")
    if temporary.is_dir():
        try:
            out.mkdir()  # the name is ours from here, and a rename takes the place of an empty folder
        except FileExistsError:
            raise taken from None
        os.rename(temporary, out)
        return
    try:
        os.link(temporary, out)
    except FileExistsError:
        raise taken from None
    except OSError:  # a file system without hard links
        if os.path.lexists(out):
            raise taken from None
        os.rename(temporary, out)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    remove: Callable[[Path], object] = shutil.rmtree if path.is_dir() and not path.is_symlink() else os.unlink
    with suppress(OSError):
        remove(path)
