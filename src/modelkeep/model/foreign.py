"""A model out of a foreign file: a ``.keras`` file, or a legacy ``.h5`` of Keras 1 to 3, without running what it says.

The architecture in the file goes through the same door as that of a version, and its weights are put where Keras would
put them; every tensor of the file must find its variable, and every variable its tensor.
"""

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras.src.saving import saving_lib

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, ModelkeepError, StateMismatch, StorageError, UsageError
from modelkeep.frameworks import keras as keras_door
from modelkeep.frameworks import keras_arrays
from modelkeep.importers import Tensor, Weights, open_weights
from modelkeep.importers.source import read_bytes
from modelkeep.model.build import build
from modelkeep.model.special import FLOAT
from modelkeep.model.vocabulary import check_entries
from modelkeep.snapshot.canonical import parse_json
from modelkeep.values import Json

_VOCABULARY = "vocabulary.txt"


def load_file(
    path: str | os.PathLike[str],
    *,
    custom_objects: Mapping[str, Any] | None = None,
    compiled: bool = False,
    into: Any = None,
    budget: Budget | None = None,
) -> Any:
    """Load a Keras model from a file; see `modelkeep.load_model`.

    Args:
        path: a ``.keras`` file, or a legacy ``.h5`` / ``.hdf5``; with ``into`` also a ``.weights.h5``, or the folder of
            a SavedModel, for its variables.
        custom_objects: classes and functions beyond Keras' own: {name: class}.
        compiled: compile it as the file says, with the state of the optimizer where a ``.keras`` file has it.
        into: a built model that the weights are put into; the architecture in the file is not looked at.
        budget: the most that it may take.

    Raises:
        Unsafe, NotFound, LimitExceeded, UnknownFormat, Damaged: as `Keep.load_model` does, and for the file's format.
        StateMismatch: tensors without a variable, or variables without a tensor; nothing is returned.
        UsageError: the file holds weights alone, and ``into`` was not given.
    """
    limits = budget or Budget()
    weights = open_weights(path, limits)
    model = into if into is not None else _built(path, weights, custom_objects, compiled, limits)
    if weights.format == "keras-h5":
        _put_by_layer(path, model, weights)
    else:
        with _assets(weights, limits) as assets:
            _put_by_path(path, model, dict(weights.tensors if compiled else weights.model()), assets)
    keras_door.settle(model)
    return model


def architecture_in(weights: Weights) -> str | None:
    """The configuration of a Keras model in a file, or None where it holds weights alone."""
    name = {"keras": "config.json", "keras-h5": "model_config"}.get(weights.format, "")
    text = weights.metadata.get(name)
    return text if isinstance(text, str) else None


def _built(
    path: str | os.PathLike[str],
    weights: Weights,
    custom_objects: Mapping[str, Any] | None,
    compiled: bool,
    budget: Budget,
) -> Any:
    where = os.fspath(path)
    text = architecture_in(weights)
    if text is None:
        raise UsageError(
            f"{where} ({weights.format}) holds weights and no architecture; build the model, and pass into=model or "
            "call mk.transfer(model, FILE)"
        )
    budget.check("text", len(text), f"the architecture in {where}")
    config = _parsed(text, budget)
    training = weights.metadata.get("training_config")
    if compiled and isinstance(training, str) and isinstance(config, dict):
        config = {"format": 1, "model": config, "compile": _compilation(_parsed(training, budget))}
    return build(config, custom_objects=custom_objects, budget=budget, compiled=compiled, drawn=False)


def _parsed(text: str, budget: Budget) -> Json:
    """JSON as Keras writes it: with NaN and infinities by their names in JavaScript."""
    names: dict[str, Json] = {"NaN": {FLOAT: "nan"}, "Infinity": {FLOAT: "inf"}, "-Infinity": {FLOAT: "-inf"}}
    return parse_json(text.encode(), limit_bytes=budget.text, max_depth=budget.depth, constant=names.__getitem__)


def _compilation(training: Json) -> Json:
    """What a legacy file says of ``compile``, as Keras 3 has it."""
    if not isinstance(training, dict):
        return training
    kept: dict[str, Json] = {
        name: training[name] for name in ("loss", "metrics", "weighted_metrics", "loss_weights") if name in training
    }
    return {"optimizer": training.get("optimizer_config"), **kept}


@dataclass(slots=True)
class _Taken:
    """The tensors of a file, and which of them have found their variable."""

    tensors: Mapping[str, Tensor]
    names: set[str] = field(default_factory=set)

    def read(self, name: str) -> Any:
        self.names.add(name)
        return self.tensors[name].read()


class _Entry(Mapping[str, Any]):
    """The variables of one layer by number, read as Keras asks for them."""

    def __init__(self, taken: _Taken, names: Mapping[str, str]) -> None:
        self._taken, self._names = taken, names

    def __getitem__(self, key: str) -> Any:
        return self._taken.read(self._names[key])

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Store(saving_lib.NpzIOStore):  # the loader takes no store of another class
    """The weights of a file in the form in which Keras' own loader asks for them."""

    def __init__(self, taken: _Taken) -> None:
        self._taken = taken

    def __bool__(self) -> bool:
        return True

    def has_path(self, path: str) -> bool:
        """Whether anything lies at or below ``path``."""
        return any(name == path or name.startswith(f"{path}/") for name in self._taken.tensors)

    def get(self, path: str) -> _Entry:
        """The variables of the layer at ``path``."""
        prefix = f"{path}/vars/" if path else "vars/"
        names = {name[len(prefix) :]: name for name in self._taken.tensors if name.startswith(prefix)}
        return _Entry(self._taken, names)


class _Assets(saving_lib.DiskIOStore):  # as above
    """A folder of assets; ``left`` are those that no layer has looked for."""

    def __init__(self, folder: str, names: Iterable[str]) -> None:
        super().__init__(folder, mode="r")
        self.left = {name for name in names if "/" in name}  # one of no layer is a picture of the model

    def get(self, path: str) -> str | None:
        """The folder of the layer at ``path``, or None."""
        self.left = {name for name in self.left if not name.startswith(f"{path}/")}
        found: str | None = super().get(path)
        return found


@contextmanager
def _assets(weights: Weights, budget: Budget) -> Iterator[_Assets | None]:
    """The assets of a file in a new folder, once each is known to be within the budget: layers open nothing else."""
    if weights.format != "keras":  # no other format has any
        yield None
        return
    if not weights.assets:  # nothing is written then, and a layer that looks for some finds none
        yield _Assets(os.devnull, ())
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="modelkeep-")
    except OSError as error:
        raise StorageError(f"no folder could be made for its vocabularies: {error}") from None
    entries = 0
    with made as folder:
        for name, source in weights.assets.items():
            budget.check("text", source.size, source.name)
            data = read_bytes(source, 0, source.size)
            if name.endswith(_VOCABULARY):
                entries += check_entries(_text(data, source.name).splitlines(), budget, source.name, numbers=False)
                budget.check("vocabulary", entries, source.name)
            try:
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).write_bytes(data)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise Damaged(f"{source.name}: this name is a file and a folder", source.name) from None
            except OSError as error:
                raise StorageError(f"{source.name}: no copy of it could be written to {folder}: {error}") from None
        yield _Assets(folder, weights.assets)


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Damaged(f"{where}: this is not UTF-8 text: {error}", where) from None


def _put_by_path(
    path: str | os.PathLike[str], model: Any, tensors: Mapping[str, Tensor], assets: _Assets | None
) -> None:
    """As Keras 3 does: by the attributes that lead to each layer."""
    taken = _Taken(tensors)
    # A layer that is reached by two attributes lies under one of them: it has failed only if each has.
    failed: set[int] = set()
    errors: dict[int, tuple[Any, Exception]] = {}
    passed_over = ""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")  # it was not asked for
        warnings.filterwarnings("error", "Skipping nested container")  # whose layers would stay as they were drawn
        try:
            saving_lib._load_state(
                model,
                weights_store=_Store(taken),
                assets_store=assets,
                inner_path="",
                visited_saveables=set(),
                failed_saveables=failed,
                error_msgs=errors,
            )
        except UserWarning as warning:
            passed_over = str(warning)
    for one in failed:
        error = errors[one][1]
        if isinstance(error, ModelkeepError):
            raise error
        raise StateMismatch(f"{os.fspath(path)}: the weights do not fit the model: {error!s:.500}") from None
    if passed_over:
        raise StateMismatch(f"{os.fspath(path)}: weights are missing: {passed_over:.500}")
    _all_taken(path, taken, assets.left if assets else ())


def _put_by_layer(path: str | os.PathLike[str], model: Any, weights: Weights) -> None:
    """As Keras 1 and 2 did: the layers by their names, the variables of each in order."""
    taken = _Taken(dict(weights.model()))
    by_layer: dict[str, list[str]] = {}
    for layer, name in _pairs(weights.metadata.get("layers")):
        by_layer.setdefault(layer, []).append(name)
    wrong: list[str] = []
    for layer in model.layers:
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        variables = [one for one in variables if "seed_generator" not in one.path]
        names = by_layer.get(layer.name, [])
        if len(names) != len(variables):
            wrong.append(f"{layer.name} has {len(variables)} variables, the file {len(names)}")
            continue
        for variable, name in zip(variables, names, strict=True):
            tensor = taken.tensors[name]
            if tuple(variable.shape) != tensor.shape:
                wrong.append(f"{variable.path} is {list(variable.shape)}, the file has {list(tensor.shape)} in {name}")
                continue
            array = taken.read(name)
            keras_arrays.write(variable, array.astype(keras_arrays.spec(variable).dtype, copy=False))
    if wrong:
        raise StateMismatch(f"{os.fspath(path)}: the weights do not fit the model: {'; '.join(wrong[:10])}")
    _all_taken(path, taken)


def _pairs(listed: Json) -> list[tuple[str, str]]:
    return [(str(one[0]), str(one[1])) for one in listed if isinstance(one, list)] if isinstance(listed, list) else []


def _all_taken(path: str | os.PathLike[str], taken: _Taken, assets: Iterable[str] = ()) -> None:
    left = [*sorted(taken.tensors.keys() - taken.names), *(f"assets/{name}" for name in sorted(assets))]
    if left:
        more = f" and {len(left) - 8} more" if len(left) > 8 else ""
        raise StateMismatch(
            f"{os.fspath(path)}: {', '.join(left[:8])}{more} found no variable of the model; Keras would have left "
            "them out without a word"
        )
