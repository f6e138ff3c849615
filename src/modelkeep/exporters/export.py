"""Which formats there are, and how a file of one comes to stand under its name: whole, checked and durable."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from modelkeep.errors import AlreadyExists, ModelkeepError, NotFound, StorageError, UsageError
from modelkeep.exporters.source import Source


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its module, and what its files end with ("" for a folder)."""

    module: str
    suffix: str
    about: str


FORMATS: Mapping[str, Format] = {
    "keras": Format("keras", ".keras", "the whole Keras model, for keras.models.load_model"),
    "weights-h5": Format("keras_weights", ".weights.h5", "the weights of a Keras model, for load_weights"),
    "safetensors": Format("safetensors", ".safetensors", "the weights by name"),
    "huggingface": Format("huggingface", "", "a folder: safetensors (with an index if large), config.json, the card"),
    "torch": Format("torch", ".pt", "the weights as a state dict, for torch.load(weights_only=True)"),
    "npz": Format("npz", ".npz", "the weights by name, for numpy.load"),
}
"""By the name that a person gives."""


def export(source: Source, to: str, out: Path, *, overwrite: bool = False) -> Path:
    """Write a model in a format of others, read it back with the format's own library, and only then name it ``out``.

    Raises:
        UsageError: no such format, or one that this model cannot have.
        AlreadyExists: something is called ``out``, and ``overwrite`` is False.
        NotExact: what was read back is not what was written; nothing is called ``out``.
        StorageError: it could not be written; nothing is called ``out``.
    """
    found = check_format(to)
    if not overwrite and os.path.lexists(out):
        raise AlreadyExists(f"{out} is there already; choose another path, or pass overwrite=True (--overwrite)")
    if not out.parent.is_dir():
        raise NotFound(f"{out.parent}: there is no such folder; make it first")
    module = import_module(f"modelkeep.exporters.{found.module}")
    temporary = out.with_name(f".{secrets.token_hex(4)}.{out.name.removesuffix(found.suffix)}{found.suffix}")
    try:
        module.write(source, temporary)
        module.check(source, temporary)
        _settle(temporary, out, overwrite)
    except ModelkeepError:
        raise
    except OSError as error:
        raise StorageError(f"{out}: it could not be written: {error.strerror or error}; nothing was left") from error
    finally:
        _remove(temporary)
    return out


def check_format(name: str) -> Format:
    """The format of that name. Raises UsageError with those that there are."""
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no format {name!r:.60} to export to, but {', '.join(FORMATS)}{meant}")
    return FORMATS[name]


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
