"""What a person gives a model: arrays, lists, numbers and text, or a file of such, made into what the model takes."""

import csv
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.errors import Damaged, LimitExceeded, NotFound, UsageError
from modelkeep.model.signature import Signature, TensorInfo, named, nested

Array = "np.ndarray[Any, Any]"

MOST_BYTES = 1 << 30
"""A larger file is refused before it is read."""
SUFFIXES = (".npy", ".npz", ".json", ".csv", ".png", ".jpg", ".jpeg", ".txt")


def conform(value: Any, signature: Signature, *, allow_nan: bool = False) -> Any:
    """``value`` as arrays of the dtypes that the model takes, nested as it takes them.

    Numbers take another width, whole numbers become floating point, and a single example gets the axis that counts
    examples; nothing else is changed. NaN is refused unless ``allow_nan``.

    Raises:
        UsageError: what is missing, not known, of another kind or shape; wanted and found.

    >>> signature = Signature(TensorInfo("x", "float32", (None, 2)), TensorInfo("y", "float32", (None, 1)))
    >>> conform([[1, 2]], signature)
    array([[1., 2.]], dtype=float32)
    >>> conform([1.5, 2], signature).shape
    (1, 2)
    """
    infos = signature.inputs
    if isinstance(infos, TensorInfo):
        if isinstance(value, Mapping) and value.keys() == {infos.name}:
            value = value[infos.name]
        return _fitted(infos.name, infos, value, allow_nan=allow_nan)
    names = named(infos)
    return nested(
        infos, {key: _fitted(key, names[key], part, allow_nan=allow_nan) for key, part in _parts(value, names).items()}
    )


def _parts(value: Any, names: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The inputs of a model of several, by name: from a dict, or a list in the model's order."""
    wanted = f"the model takes {', '.join(map(str, names.values()))}"
    if isinstance(value, Mapping):
        wrong = [f"{key} is missing" for key in names if key not in value]
        wrong += [f"{key} is not known" for key in value if key not in names]
        if wrong:
            raise UsageError(f"these inputs do not fit: {'; '.join(wrong[:10])}; {wanted}")
        return {key: value[key] for key in names}
    if isinstance(value, list | tuple) and len(value) == len(names):
        return dict(zip(names, value, strict=True))
    raise UsageError(f"{wanted}: give a dict of them, or a list of {len(names)}, not {_shown(value)}")


def _fitted(name: str, info: TensorInfo, value: Any, *, allow_nan: bool) -> Any:
    if info.dtype == "string":
        return _shaped(name, info, _texts(name, value))
    dtype = np.dtype(info.dtype)
    if not isinstance(value, np.ndarray):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise UsageError(f"{name}: {info} is wanted, and no array can be made of it: {error!s:.200}") from None
    if value.dtype != dtype:
        value = _cast(name, info, value, dtype)
    value = _shaped(name, info, value)
    if (
        dtype.kind not in "biu" and not allow_nan and value.size and np.isnan(value.max())
    ):  # the largest is NaN if any is
        count = int(np.count_nonzero(np.isnan(value)))
        raise UsageError(f"{name} holds {count} NaN of {value.size} values; mend the data, or pass allow_nan=True")
    return value


def _cast(name: str, info: TensorInfo, value: Any, dtype: "np.dtype[Any]") -> Any:
    """The values in another dtype of the same kind, or whole numbers as floating point."""
    if value.dtype.kind not in "biuf" and value.dtype.type.__module__ != "ml_dtypes":
        raise UsageError(f"{name}: {info} is wanted, and {value.dtype} was given")
    with np.errstate(over="ignore", invalid="ignore"):
        found = value.astype(dtype)
    if dtype.kind in "biu":
        if value.size == 0 and value.dtype.kind == "f":
            return found
        if value.dtype.kind not in "biu" or not np.array_equal(found.astype("int64"), value.astype("int64")):
            raise UsageError(
                f"{name}: {info} is wanted, and {value.dtype} was given, which does not fit; x.astype({dtype.name!r}) "
                "says that it is meant"
            )
    return found


def _shaped(name: str, info: TensorInfo, value: Any) -> Any:
    """The array, with the axis that counts examples where a single one was given."""
    if value.ndim + 1 == len(info.shape) and info.shape[0] is None:
        value = value[None]
    fits = value.ndim == len(info.shape) and all(
        axis is None or axis == size for axis, size in zip(info.shape, value.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"{name} is of shape {list(value.shape)}, and {info} is wanted")
    return value


def _texts(name: str, value: Any) -> Any:
    array = np.asarray(value, object)
    if not all(isinstance(one, str | bytes) for one in array.flat):
        raise UsageError(f"{name}: text is wanted, and {_shown(value)} was given")
    return array


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, str | bytes | int | float) else f"a {type(value).__name__}"


def read_inputs(path: str | os.PathLike[str], signature: Signature) -> Any:
    """Read the input of a prediction from a file.

    ``.npy`` and ``.npz`` (by input name); ``.json``: a list, or an object by input names, or ``{"instances": [...]}``
    and ``{"inputs": ...}`` as TensorFlow Serving has them; ``.csv``: rows of numbers or text, with the names of the
    inputs in the first line or without; ``.png`` and ``.jpg``: values from 0 to 255 in the channels that the model
    takes, and of its size; ``.txt``: a text in each line. ``-`` is JSON from stdin.

    Returns: what `conform` takes.

    Raises:
        NotFound: there is no such file.
        UsageError: another kind of file, or a picture of another size.
        Damaged: it is not what its name says.
        LimitExceeded: it has more than 1 GiB.
    """
    if os.fspath(path) == "-":
        return _json(sys.stdin.read(), "stdin", signature)
    place = Path(path)
    suffix = place.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{place}: inputs are read from {', '.join(SUFFIXES)}, or from stdin as JSON for -")
    try:
        size = place.stat().st_size
    except OSError:
        raise NotFound(f"there is no file {place}") from None
    if size > MOST_BYTES:
        raise LimitExceeded(f"{place} has {size:,} bytes, and at most {MOST_BYTES:,} are read; give it in parts")
    try:
        return _read(place, suffix, signature)
    except UnicodeDecodeError as error:
        raise Damaged(f"{place}: it is no UTF-8 text: {error}", str(place)) from None


def _read(place: Path, suffix: str, signature: Signature) -> Any:
    if suffix in {".npy", ".npz"}:
        try:
            found = np.load(place, allow_pickle=False)
            return found if suffix == ".npy" else {name: found[name] for name in found.files}
        except (ValueError, OSError, KeyError, EOFError) as error:
            raise Damaged(f"{place}: numpy cannot read it: {error!s:.200}", str(place)) from None
    if suffix == ".json":
        return _json(place.read_text("utf-8"), str(place), signature)
    if suffix == ".csv":
        return _csv(place, signature)
    if suffix == ".txt":
        return np.array(place.read_text("utf-8").splitlines(), object)
    return _picture(place, signature)


def _json(text: str, where: str, signature: Signature) -> Any:
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Damaged(f"{where}: it is no JSON: {error}", where) from None
    if isinstance(found, dict) and len(found) == 1 and not found.keys() & named(signature.inputs).keys():
        ((key, value),) = found.items()
        if key == "inputs":
            return value
        if key == "instances" and isinstance(value, list):
            rows = value and all(isinstance(one, dict) for one in value)
            return {name: [one.get(name) for one in value] for name in value[0]} if rows else value
    return found


def _csv(place: Path, signature: Signature) -> Any:
    infos = named(signature.inputs)
    with place.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    heads = [name.strip() for name in rows[0]] if rows else []
    if rows and {*heads} == {*infos}:
        columns = zip(*rows[1:], strict=False)
        return {name: _column(list(column), infos[name], place) for name, column in zip(heads, columns, strict=False)}
    if len(infos) > 1:
        raise UsageError(f"{place}: the first line names the inputs, {', '.join(infos)}, one in each column")
    (info,) = infos.values()
    if info.dtype == "string":
        return np.array([row[0] for row in rows] if len(info.shape) < 2 else rows, object)
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]) or not all(map(_is_number, row)):
            raise Damaged(
                f"{place}, row {number}: {len(rows[0])} numbers are wanted, not {','.join(row):.80}", str(place)
            )
    return np.array([[float(cell) for cell in row] for row in rows])


def _column(cells: list[str], info: TensorInfo, place: Path) -> Any:
    if info.dtype == "string":
        found = np.array(cells, object)
    elif all(map(_is_number, cells)):
        found = np.array([float(cell) for cell in cells])
        if np.dtype(info.dtype).kind in "biu" and np.array_equal(found, np.floor(found)):
            found = found.astype(info.dtype)
    else:
        raise Damaged(f"{place}: the column {info.name} holds what is no number", str(place))
    return found[:, None] if len(info.shape) == 2 else found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _picture(place: Path, signature: Signature) -> Any:
    infos = named(signature.inputs)
    (info, *others) = infos.values()
    if others or len(info.shape) not in {3, 4}:
        raise UsageError(f"{place}: the model takes no picture, but {signature.shown_inputs}")
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UsageError(f"{place}: a picture is read by Pillow; pip install pillow brings it") from None
    channels = info.shape[3] if len(info.shape) == 4 else 1
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise UsageError(f"{place}: a picture has 1, 3 or 4 channels, and {info} is wanted")
    try:
        with Image.open(place) as image:
            array = np.asarray(image.convert(modes[channels]))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise Damaged(f"{place}: it is no picture that Pillow reads: {error!s:.200}", str(place)) from None
    height, width = info.shape[1], info.shape[2]
    if (height or array.shape[0], width or array.shape[1]) != array.shape[:2]:
        raise UsageError(
            f"{place} is {array.shape[1]} x {array.shape[0]}, and the model takes {width} x {height}; bring it to that "
            "size"
        )
    if len(info.shape) == 4 and channels == 1:
        array = array[..., None]
    return array[None].astype(info.dtype)
