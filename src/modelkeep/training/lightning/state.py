"""One moment of a training with Lightning as a state tree, taken between two steps, and back.

Lightning's own checkpoint has the module, optimizers, schedulers, loops and callbacks. It lacks what is added here: the
random generators, what ``self.log`` and torchmetrics have accumulated in the epoch, the metrics that callbacks and
schedulers look at, buffers that are not persistent, and gradients that a manual optimization has left.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torchmetrics import Metric

from modelkeep.errors import UnsupportedState
from modelkeep.frameworks import torch as torch_door
from modelkeep.frameworks.torch_tensors import from_numpy
from modelkeep.training.randomness import capture_generators

State = dict[str, Any]

_HYPER_PARAMETERS = (
    LightningModule.CHECKPOINT_HYPER_PARAMS_KEY,
    LightningModule.CHECKPOINT_HYPER_PARAMS_NAME,
    LightningModule.CHECKPOINT_HYPER_PARAMS_TYPE,
)
"""They come from the program, and are not read back."""

_SHOWN = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")


def capture(trainer: Trainer, *, inside: bool) -> State:
    """The state before the next step; ``inside`` an epoch, else before one begins (or after the last).

    Raises:
        UnsupportedState: a callback or a module keeps what is no tensor and no plain value.
    """
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    for name in _HYPER_PARAMETERS:
        checkpoint.pop(name, None)
    _settle(checkpoint["loops"]["fit_loop"], inside=inside)
    module = trainer.lightning_module
    connector = trainer._logger_connector
    extra = {
        "metrics": {name: _of_metric(one) for name, one in _metrics(module).items()},
        "buffers": {name: one for name, one in module.named_buffers() if name not in checkpoint["state_dict"]},
        "results": {key: _accumulated(one) for key, one in _results(trainer).items() if inside and _counts(one)},
        "shown": {name: dict(getattr(connector, name)) for name in _SHOWN},
        "gradients": {} if module.automatic_optimization else _gradients(module),
        "stop": bool(trainer.should_stop),
    }
    try:
        taken: State = torch_door.state_of({"lightning": _plain(checkpoint), "extra": _plain(extra)})
    except UnsupportedState as error:
        raise UnsupportedState(
            f"{error}; in Lightning's checkpoint `callbacks` has what they return from state_dict, and other names are "
            "what on_save_checkpoint adds"
        ) from None
    return {**taken, "generators": capture_generators()}


def opened(tree: State) -> State:
    """A state tree with tensors in place of arrays, as Lightning and torch take them; generators stay arrays."""
    return {"lightning": _tensors(tree["lightning"]), "extra": _tensors(tree["extra"])}


def put_extra(trainer: Trainer, extra: State) -> None:
    """Put back what Lightning does not, once it has put back all else.

    ``stop`` is left out: it is needed earlier.
    """
    module = trainer.lightning_module
    metrics = _metrics(module)
    for name, state in extra["metrics"].items():
        if name in metrics:
            _into_metric(metrics[name], state)
    buffers = dict(module.named_buffers())
    with torch.no_grad():
        for name, value in extra["buffers"].items():
            buffers[name].copy_(value)
    parameters = dict(module.named_parameters())
    for name, value in extra["gradients"].items():
        parameters[name].grad = value.to(parameters[name].device)
    for name, values in extra["shown"].items():
        setattr(trainer._logger_connector, name, dict(values))
    trainer.fit_loop.epoch_loop._results = Continued(extra["results"])


class Continued(_ResultCollection):
    """What ``self.log`` accumulates, with the part of the epoch that an earlier process has seen."""

    def __init__(self, earlier: Mapping[str, State]) -> None:
        super().__init__(training=True)
        self._earlier = dict(earlier)

    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        for name, value in self._earlier.pop(key, {}).items():
            setattr(metric, name, value)
        super().__setitem__(key, metric)

    def forget(self) -> None:
        """The epoch is over."""
        self._earlier.clear()


def _settle(loop: State, *, inside: bool) -> None:
    """Lightning counts the batch, or the epoch, that is about to begin as ready already: it is not."""
    progress = loop["epoch_loop.batch_progress"] if inside else loop["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["ready"] = counts["started"] = counts["processed"] = counts["completed"]
    if not inside:
        batches = loop["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False


def _metrics(module: LightningModule) -> dict[str, Metric]:
    return {name: one for name, one in module.named_modules() if isinstance(one, Metric)}


def _of_metric(metric: Metric) -> State:
    return {"count": metric._update_count, "states": {name: getattr(metric, name) for name in metric._defaults}}


def _into_metric(metric: Metric, state: State) -> None:
    for name, value in state["states"].items():
        setattr(metric, name, value)
    metric._update_count = state["count"]
    metric._computed = None


def _results(trainer: Trainer) -> Mapping[str, _ResultMetric]:
    found: Mapping[str, _ResultMetric] = trainer.fit_loop.epoch_loop._results
    return found


def _counts(metric: _ResultMetric) -> bool:
    """Whether it accumulates over the epoch by itself; a torchmetrics object does in the module."""
    return bool(metric.is_tensor and metric.meta.on_epoch and not metric.has_reset)


def _accumulated(metric: _ResultMetric) -> State:
    return {**{name: getattr(metric, name) for name in metric._defaults}, "_update_count": metric._update_count}


def _gradients(module: LightningModule) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in module.named_parameters() if one.grad is not None}


def _plain(value: Any) -> Any:
    """Subclasses of dict, list and tuple as these."""
    return _mapped(value, lambda leaf: leaf)


def _tensors(value: Any) -> Any:
    return _mapped(value, lambda leaf: from_numpy(leaf) if hasattr(leaf, "dtype") else leaf)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_mapped(one, change) for one in value]
    return tuple(_mapped(one, change) for one in value) if isinstance(value, tuple) else change(value)
