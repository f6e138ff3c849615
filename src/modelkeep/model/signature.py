"""What a model takes and gives: the names, dtypes and shapes of its inputs and outputs, free dimensions included."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from modelkeep.errors import Damaged, LimitExceeded, UsageError
from modelkeep.values import Json

MOST = 10_000
"""Inputs, or outputs, of one signature."""
DEEPEST = 8
"""Dicts and lists within each other."""

Infos: TypeAlias = "TensorInfo | list[Any] | dict[str, Any]"
"""One tensor, or a list or dict of such, nested as the model takes or gives them."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output. ``shape`` has None for a dimension that may differ from call to call."""

    name: str
    dtype: str
    """As numpy and ml_dtypes name it; text is ``"string"``."""
    shape: tuple[int | None, ...]
    labels: tuple[str, ...] = ()
    """What the values along the last axis stand for, such as the classes of a classifier; empty where nobody said."""

    def __str__(self) -> str:
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name}: {self.dtype} [{axes}]"

    def to_json(self) -> dict[str, Json]:
        """The info as it is kept."""
        labels: dict[str, Json] = {"labels": list(self.labels)} if self.labels else {}
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **labels}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    >>> found = Signature.of_arrays({"image": np.zeros((4, 8, 8), "float32")}, np.zeros((4, 10), "float32"))
    >>> print(found)
    image: float32 [?, 8, 8] -> output: float32 [?, 10]
    >>> Signature.from_json(found.to_json()) == found
    True
    """

    inputs: Infos
    outputs: Infos

    @classmethod
    def of_arrays(cls, inputs: Any, outputs: Any) -> "Signature":
        """The signature of what was put into a model and what came out; the first axis of each is taken as free."""
        return cls(_mapped(inputs, "input", info_of), _mapped(outputs, "output", info_of))

    @classmethod
    def from_json(cls, document: Json) -> "Signature":
        """Read what `to_json` gave.

        Raises:
            Damaged, LimitExceeded: it is no signature, or one of more than 10,000 tensors.
        """
        if not isinstance(document, dict) or document.keys() != {"inputs", "outputs"}:
            raise Damaged("the signature has not exactly inputs and outputs")
        found = cls(_read(document["inputs"], "inputs", 0), _read(document["outputs"], "outputs", 0))
        for infos in (found.inputs, found.outputs):
            if sum(1 for _ in tensors(infos)) > MOST:
                raise LimitExceeded(f"the signature has more than {MOST:,} tensors")
        return found

    def to_json(self) -> dict[str, Json]:
        """The signature as it is kept."""
        return {"inputs": _written(self.inputs), "outputs": _written(self.outputs)}

    def labelled(self, labels: Sequence[str] | Mapping[str, Sequence[str]]) -> "Signature":
        """The same with labels for the values along the last axis of outputs: of the only one, or by its name.

        Raises:
            UsageError: an output that is not there, not as many as the axis is long, or one that is no line of text.

        >>> found = Signature.of_arrays(np.zeros((4, 8)), {"sex": np.zeros((4, 2)), "age": np.zeros((4, 1))})
        >>> found.labelled({"sex": ["female", "male"]}).outputs["sex"].labels
        ('female', 'male')
        """
        outputs = named(self.outputs)
        given = labels if isinstance(labels, Mapping) else {_only(outputs): labels}
        for name in given:
            if name not in outputs:
                raise UsageError(f"labels are for {name!r:.60}, and the model gives {', '.join(outputs)}")
        found = {name: replace(info, labels=_fitting(name, info, given.get(name))) for name, info in outputs.items()}
        return Signature(self.inputs, nested(self.outputs, found))

    def check_inputs(self, inputs: Any) -> None:
        """Compare inputs with what the model takes.

        Raises:
            UsageError: each name, dtype or shape that differs, wanted and found.
        """
        wrong: list[str] = []
        _compare(self.inputs, inputs, "", wrong)
        if wrong:
            raise UsageError(
                f"these inputs do not fit the model: {'; '.join(wrong[:10])}; it takes {self.shown_inputs}"
            )

    @property
    def shown_inputs(self) -> str:
        """The inputs in one line."""
        return ", ".join(map(str, tensors(self.inputs)))

    @property
    def shown_outputs(self) -> str:
        """The outputs in one line."""
        return ", ".join(map(str, tensors(self.outputs)))

    def __str__(self) -> str:
        return f"{self.shown_inputs} -> {self.shown_outputs}"


def tensors(infos: Infos) -> Iterator[TensorInfo]:
    """Each tensor of the inputs or outputs, in order."""
    if isinstance(infos, TensorInfo):
        yield infos
        return
    for part in infos.values() if isinstance(infos, dict) else infos:
        yield from tensors(part)


def named(infos: Infos) -> dict[str, TensorInfo]:
    """Each tensor by a name of its own, as exported graphs have them: of a dict the key, else the tensor's own name.

    >>> list(named({"image": TensorInfo("keras_tensor", "float32", (None, 8)), "size": TensorInfo("s", "float32", ())}))
    ['image', 'size']
    >>> list(named([TensorInfo("x", "float32", ()), TensorInfo("x", "float32", ())]))
    ['x', 'x_1']
    """
    found: dict[str, TensorInfo] = {}
    for keys, info in _walked(infos, ()):
        wanted = "_".join(keys) or info.name
        name, count = wanted, 0
        while name in found:
            count += 1
            name = f"{wanted}_{count}"
        found[name] = info
    return found


def flat(infos: Infos, value: Any) -> dict[str, Any]:
    """The tensors of a value that is nested as ``infos`` are, by the names of `named`.

    >>> flat([TensorInfo("x", "float32", ()), TensorInfo("y", "float32", ())], (1.0, 2.0))
    {'x': 1.0, 'y': 2.0}
    """
    return dict(zip(named(infos), _leaves(infos, value), strict=True))


def nested(infos: Infos, values: Mapping[str, Any]) -> Any:
    """The other way: values by the names of `named`, nested as ``infos`` are."""
    return _filled(infos, iter([values[name] for name in named(infos)]))


def _walked(infos: Infos, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], TensorInfo]]:
    if isinstance(infos, TensorInfo):
        yield keys, infos
    elif isinstance(infos, dict):
        for key, part in infos.items():
            yield from _walked(part, (*keys, key))
    else:
        for part in infos:
            yield from _walked(part, ())


def _leaves(infos: Infos, value: Any) -> Iterator[Any]:
    if isinstance(infos, TensorInfo):
        yield value
    elif isinstance(infos, dict):
        for key, part in infos.items():
            yield from _leaves(part, value[key])
    else:
        for part, item in zip(infos, value, strict=True):
            yield from _leaves(part, item)


def _filled(infos: Infos, values: Iterator[Any]) -> Any:
    if isinstance(infos, TensorInfo):
        return next(values)
    if isinstance(infos, dict):
        return {key: _filled(part, values) for key, part in infos.items()}
    return [_filled(part, values) for part in infos]


def _only(outputs: Mapping[str, TensorInfo]) -> str:
    if len(outputs) != 1:
        wanted = f"{{{next(iter(outputs), 'OUTPUT')!r}: [...]}}"
        raise UsageError(f"the model gives {', '.join(outputs)}; say whose labels they are: {wanted}")
    return next(iter(outputs))


def _fitting(name: str, info: TensorInfo, labels: Sequence[str] | None) -> tuple[str, ...]:
    if labels is None:
        return info.labels
    if isinstance(labels, str | bytes):
        raise UsageError(f"the labels of {name} are {labels!r:.60}, and a list of lines of text is wanted")
    found: tuple[Any, ...] = tuple(labels)
    if len(info.shape) < 2:
        raise UsageError(f"{name} has no axis of values beside the examples, so that nothing of it can have labels")
    length = info.shape[-1]
    if length not in (None, len(found)):
        raise UsageError(f"{len(found)} labels were given for {name}, and {length} are wanted")
    for one in found:
        if not isinstance(one, str) or not one.strip() or one.splitlines() != [one]:
            raise UsageError(f"a label of {name} is {one!r:.60}, and a line of text is wanted")
    return found


def info_of(array: Any, name: str) -> TensorInfo:
    """The info of an array whose first axis counts examples."""
    array = np.asarray(array)
    return TensorInfo(name, dtype_name(array.dtype), (None, *array.shape[1:]) if array.ndim else ())


def dtype_name(dtype: "np.dtype[Any]") -> str:
    """The name of a dtype in a signature.

    >>> dtype_name(np.dtype(">f4")), dtype_name(np.dtype("U5"))
    ('float32', 'string')
    """
    return "string" if dtype.kind in "OUST" else dtype.newbyteorder("=").name


def _mapped(tree: Any, name: str, make: Callable[[Any, str], TensorInfo]) -> Infos:
    """Infos of a tree of tensors; entries of a dict have their key as their name, those of a list a number."""
    if isinstance(tree, Mapping):
        return {key: _mapped(value, key if isinstance(key, str) else name, make) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_mapped(value, f"{name}_{index}", make) for index, value in enumerate(tree)]
    return make(tree, name)


def _written(infos: Infos) -> Json:
    if isinstance(infos, TensorInfo):
        return infos.to_json()
    if isinstance(infos, dict):
        return {key: _written(part) for key, part in infos.items()}
    return [_written(part) for part in infos]


def _read(node: Json, where: str, depth: int) -> Infos:
    if depth > DEEPEST:
        raise LimitExceeded(f"the signature has {where} nested deeper than {DEEPEST}")
    if isinstance(node, list):
        return [_read(part, f"{where}[{index}]", depth + 1) for index, part in enumerate(node)]
    if not isinstance(node, dict):
        raise Damaged(f"the signature has {node!r:.60} at {where}, where a tensor should be")
    name, dtype, shape = (node.get(key) for key in ("name", "dtype", "shape"))
    labels = node.get("labels", [])
    if node.keys() - {"labels"} != {"name", "dtype", "shape"} or not isinstance(name, str):
        return {key: _read(part, f"{where}.{key}", depth + 1) for key, part in node.items()}
    axes = shape if isinstance(shape, list) else [""]
    if not isinstance(dtype, str) or not all(one is None or (type(one) is int and one >= 0) for one in axes):
        raise Damaged(f"the signature has a tensor at {where} whose dtype or shape is none")
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
        raise Damaged(f"the signature has labels at {where} that are no list of text")
    return TensorInfo(name, dtype, tuple(axes), tuple(labels))  # type: ignore[arg-type]  # looked at above


def _compare(wanted: Infos, found: Any, where: str, wrong: list[str]) -> None:
    if isinstance(wanted, TensorInfo):
        fault = _fault(wanted, found)
        if fault:
            wrong.append(f"{wanted.name} is {fault}")
    elif isinstance(wanted, dict):
        if not isinstance(found, Mapping):
            wrong.append(f"{where or 'the input'} is a {type(found).__name__}, not a dict of {', '.join(wanted)}")
            return
        wrong += [f"{key} is missing" for key in wanted if key not in found]
        wrong += [f"{key} is not known" for key in found if key not in wanted]
        for key, part in wanted.items():
            if key in found:
                _compare(part, found[key], key, wrong)
    elif not isinstance(found, list | tuple) or len(found) != len(wanted):
        count = len(found) if isinstance(found, list | tuple) else type(found).__name__
        wrong.append(f"{where or 'the input'} is {count}, not a list of {len(wanted)}")
    else:
        for index, part in enumerate(wanted):
            _compare(part, found[index], f"{where}[{index}]", wrong)


def _fault(wanted: TensorInfo, found: Any) -> str:
    """What is wrong with an array; numbers of another width are not, since every framework converts them."""
    try:
        array = np.asarray(found)
    except ValueError as error:
        return f"no array ({error})"
    fits = array.ndim == len(wanted.shape) and all(
        axis is None or axis == length for axis, length in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        return f"of shape {list(array.shape)}, and {wanted} is wanted"
    if (dtype_name(array.dtype) == "string") != (wanted.dtype == "string"):
        return f"{dtype_name(array.dtype)}, and {wanted} is wanted"
    return ""
