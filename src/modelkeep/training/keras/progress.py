"""One moment of a training as a state tree: the variables, and where the training is.

``model`` / ``optimizer`` / ``metrics``
    the variables, as ``frameworks.keras.state_of`` names them; with ``replicas`` where there are several;
``training``
    the position (``epoch``, ``batch``, ``step``, ``evaluations``), ``stop`` (a callback has ended the training),
    ``logs`` (of the last epoch), ``step_logs`` (of the last batch, only where its epoch's validation is next),
    ``callbacks``, ``layers`` (what layers hold outside of variables), ``setup`` (what data, model and compilation are),
    ``generators`` (process-wide random generators), ``data`` (what a dataset holds besides its position);
``continue``
    only in the last checkpoint of a finished run: the variables as they were before callbacks and optimizer replaced
    them at the end of training, from which more epochs go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras.callbacks import Callback

from modelkeep.frameworks import keras as keras_door
from modelkeep.training.keras.callbacks import capture_callbacks
from modelkeep.training.keras.layers import capture_layers
from modelkeep.training.randomness import capture_generators

State = dict[str, Any]
VARIABLES = keras_door.PARTS


@dataclass(frozen=True, slots=True)
class Position:
    """The next batch to do: ``batch`` of ``epoch``, both counted from 0."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    """Batches done since the run began."""
    evaluations: int = 0
    """Passes over the validation data since the run began."""

    @classmethod
    def of(cls, tree: State) -> "Position":
        """The position that a checkpoint's tree holds."""
        training = tree["training"]
        return cls(training["epoch"], training["batch"], training["step"], training["evaluations"])


def capture(
    model: keras.Model,
    callbacks: Sequence[Callback],
    position: Position,
    *,
    logs: Mapping[str, float] | None,
    data: State,
) -> State:
    """Return the whole state of a training. Arrays may be shared with the framework, which copies on write."""
    training = {
        **asdict(position),
        "stop": bool(model.stop_training),
        "logs": dict(logs) if logs is not None else None,
        "callbacks": capture_callbacks(callbacks),
        "layers": capture_layers(model),
        "generators": capture_generators(),
        "data": data,
    }
    return {**keras_door.state_of(model), "training": training}


def variables_to_continue(tree: State) -> State:
    """The variables from which training goes on."""
    source = tree.get("continue", tree)
    return {part: source[part] for part in VARIABLES if part in source}


def final_variables(tree: State) -> State:
    """The variables as training left them in the model."""
    return {part: tree[part] for part in VARIABLES if part in tree}
