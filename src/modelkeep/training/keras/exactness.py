"""What could not be resumed bit for bit, found when training starts: each with the line that mends it."""

from collections.abc import Iterator, Sequence
from typing import Any

from keras.callbacks import BackupAndRestore, Callback
from keras.src.trainers.data_adapters import is_tf_dataset
from keras.utils import PyDataset

from modelkeep.training.keras.callbacks import undeclared_changes
from modelkeep.training.keras.checkpoint import Checkpoint as OwnCallback
from modelkeep.training.keras.data import same_batches
from modelkeep.training.keras.feed import Feed
from modelkeep.training.randomness import global_draws

_STATEFUL_RANDOM = frozenset(
    [
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "TruncatedNormal",
        "RandomShuffle",
        "Multinomial",
        "RandomGamma",
        "RandomPoissonV2",
        "ParameterizedTruncatedNormal",
        "SampleDistortedBoundingBoxV2",
        "RandomCrop",
    ]
)


def findings(callbacks: Sequence[Callback], x: Any, feed: Feed | None) -> list[str]:
    """Return one sentence for each thing that a resume could not bring back, with its fix; empty when all is well."""
    found = [problem for callback in callbacks for problem in _in_callback(callback)]
    if feed is None:
        found.append(
            f"data of type {type(x).__name__} open only at their beginning, so a resume cannot find its place inside "
            "an epoch; pass arrays, a tf.data.Dataset, a keras.utils.PyDataset, a torch DataLoader or a Grain dataset, "
            "or modelkeep.keras.Replay(batches), where batches() gives the same ones in each process"
        )
    elif is_tf_dataset(x):
        found += _in_dataset(x)
    elif isinstance(x, PyDataset):
        found += _in_py_dataset(x)
    elif hasattr(feed.source, "problems"):
        found += feed.source.problems()
    return found


def findings_in_step(train_function: Any) -> list[str]:
    """Name the random ops of a traced TensorFlow training step whose state lies in a kernel, out of reach.

    It can be called once the first step has run; a step that TensorFlow has not traced gives an empty list.
    """
    drawn = {name for function in _traced(train_function, set()) for name in _random_ops(function)}
    return [
        f"the training step draws from {name}, whose state TensorFlow keeps in a kernel where nothing can read it; "
        "draw from a keras.random.SeedGenerator of the model (keras.random.normal(..., seed=generator)) or from "
        "tf.random.stateless_*"
        for name in sorted(drawn)
    ]


def _in_callback(callback: Callback) -> Iterator[str]:
    name = type(callback).__name__
    if isinstance(callback, OwnCallback):
        yield "modelkeep.keras.Checkpoint is for a plain model.fit; leave it out, fit does its work"
        return
    if isinstance(callback, BackupAndRestore):
        yield f"{name} restores a state of its own over ours; leave it out, the run does its work"
    undeclared = sorted(undeclared_changes(callback))
    changed = [attribute for attribute in undeclared if not attribute.startswith("model.")]
    for attribute in sorted(set(undeclared) - set(changed)):
        yield (
            f"{name} changes self.{attribute} while training, which is no variable, so no checkpoint holds it; add a "
            f"set_state(self, state) that does so again, and a get_state(self) that tells what it needs to know"
        )
    if changed:
        pairs = ", ".join(f'"{attribute}": self.{attribute}' for attribute in changed)
        yield (
            f"{name} changes {', '.join('self.' + attribute for attribute in changed)} while training and has no "
            f"get_state/set_state; add `def get_state(self): return {{{pairs}}}` and "
            "`def set_state(self, state): self.__dict__.update(state)`"
        )


def _in_dataset(dataset: Any) -> Iterator[str]:
    for one in _datasets(dataset):
        kind = type(one).__name__.strip("_")
        if "Shuffle" in kind and _is_unseeded(one):
            yield (
                "tf.data shuffle() has no seed, so no new process finds its order again; pass shuffle(..., seed=0), or "
                "import tensorflow and call keep.run(...) before the dataset is built"
            )
        if getattr(one, "_deterministic", "default") in (False, "false"):
            yield f"{kind} runs with deterministic=False: leave that out"
        if getattr(one.options(), "deterministic", None) is False:
            yield "the dataset's options say deterministic=False: leave that out"
        drawn = sorted(_random_ops(getattr(getattr(one, "_map_func", None), "function", None)))
        if drawn:
            yield (
                f"a map() of the dataset draws from {', '.join(drawn)}, in the order in which its threads run; use "
                "tf.random.stateless_* with seeds of tf.data.Dataset.random(seed=0) zipped in, or random layers "
                "inside the model"
            )


def _datasets(dataset: Any) -> Iterator[Any]:
    yield dataset
    for one in dataset._inputs():
        yield from _datasets(one)


def _is_unseeded(shuffle: Any) -> bool:
    return all(int(getattr(shuffle, name, 1)) == 0 for name in ("_seed", "_seed2"))


def _random_ops(concrete_function: Any) -> set[str]:
    if concrete_function is None:
        return set()
    graph = concrete_function.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes} & _STATEFUL_RANDOM


def _traced(function: Any, seen: set[int]) -> Iterator[Any]:
    """The concrete functions of the ``tf.function``s that ``function`` closes over."""
    if not callable(function) or id(function) in seen:
        return
    seen.add(id(function))
    if hasattr(function, "_list_all_concrete_functions"):
        yield from function._list_all_concrete_functions()
        function = function.python_function
    for cell in getattr(function, "__closure__", None) or ():
        yield from _traced(cell.cell_contents, seen)


def _in_py_dataset(dataset: PyDataset) -> Iterator[str]:
    """Read one batch twice: a batch that depends on more than its number is not the same in a new process."""
    name = type(dataset).__name__
    before = global_draws()
    same = same_batches(dataset[0], dataset[0])
    drew = global_draws() != before
    if drew or not same:
        yield (
            f"{name}[0] differs when it is read twice" if not same else f"{name}[0] draws from a global generator"
        ) + (
            ": its batches must depend on their number alone, since workers run ahead of training; draw from "
            "numpy.random.default_rng((seed, epoch, index))"
        )
