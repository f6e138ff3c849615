"""modelkeep: training that survives any crash and resumes bit for bit; states that are kept, verified and found again.

>>> import modelkeep as mk
>>> keep = mk.open("memory://docs-package")
>>> keep
Keep('memory://docs-package', 0 runs)

Names are imported when they are first used, so that ``import modelkeep`` loads no framework. ``mk.keras`` needs Keras.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelkeep import errors as errors
    from modelkeep.budget import Budget as Budget
    from modelkeep.keep import Keep as Keep
    from modelkeep.keep import open as open  # noqa: A004  see there
    from modelkeep.model.contents import Example as Example
    from modelkeep.model.lora import merge_lora as merge_lora
    from modelkeep.model.publish import Card as Card
    from modelkeep.model.transfer.report import TransferReport as TransferReport
    from modelkeep.model.transfer.resizing import Rows as Rows
    from modelkeep.models import export as export
    from modelkeep.models import load_model as load_model
    from modelkeep.models import predictor as predictor
    from modelkeep.models import transfer as transfer
    from modelkeep.snapshot import Snapshot as Snapshot
    from modelkeep.store import Checkpoint as Checkpoint
    from modelkeep.store import MetricRow as MetricRow
    from modelkeep.store import Version as Version
    from modelkeep.training import keras as keras
    from modelkeep.training.policy import Best as Best
    from modelkeep.training.policy import Every as Every
    from modelkeep.training.policy import Retain as Retain
    from modelkeep.training.policy import best as best
    from modelkeep.training.policy import every as every
    from modelkeep.training.policy import retain as retain
    from modelkeep.training.run import Run as Run
    from modelkeep.training.summary import RunSummary as RunSummary
    from modelkeep.values import Ref as Ref

    __version__: str

_HOMES = {
    "Best": "modelkeep.training.policy",
    "Budget": "modelkeep.budget",
    "Card": "modelkeep.model.publish",
    "Checkpoint": "modelkeep.store",
    "Every": "modelkeep.training.policy",
    "Example": "modelkeep.model.contents",
    "Keep": "modelkeep.keep",
    "MetricRow": "modelkeep.store",
    "Ref": "modelkeep.values",
    "Retain": "modelkeep.training.policy",
    "Rows": "modelkeep.model.transfer.resizing",
    "Run": "modelkeep.training.run",
    "RunSummary": "modelkeep.training.summary",
    "Snapshot": "modelkeep.snapshot",
    "TransferReport": "modelkeep.model.transfer.report",
    "Version": "modelkeep.store",
    "best": "modelkeep.training.policy",
    "every": "modelkeep.training.policy",
    "export": "modelkeep.models",
    "load_model": "modelkeep.models",
    "merge_lora": "modelkeep.model.lora",
    "open": "modelkeep.keep",
    "predictor": "modelkeep.models",
    "retain": "modelkeep.training.policy",
    "transfer": "modelkeep.models",
}
_MODULES = {
    "errors": "modelkeep.errors",
    "keras": "modelkeep.training.keras",
    "lightning": "modelkeep.training.lightning",
    "transformers": "modelkeep.training.transformers",
}

# Without frameworks: `from modelkeep import *` must work where none is installed.
__all__ = [
    "Best",
    "Budget",
    "Card",
    "Checkpoint",
    "Every",
    "Example",
    "Keep",
    "MetricRow",
    "Ref",
    "Retain",
    "Rows",
    "Run",
    "RunSummary",
    "Snapshot",
    "TransferReport",
    "Version",
    "best",
    "errors",
    "every",
    "export",
    "load_model",
    "merge_lora",
    "open",
    "predictor",
    "retain",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found: Any = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        found = _module(name)
    elif name == "__version__":
        from modelkeep.training.environment import version

        found = version()
    else:
        raise AttributeError(f"module 'modelkeep' has no attribute {name!r}")
    globals()[name] = found
    return found


def _module(name: str) -> Any:
    """Raises AttributeError where a framework is missing: `hasattr`, `help` and `inspect` take nothing else."""
    try:
        return import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "modelkeep":
            raise
        extra = "keras,tensorflow" if name == "keras" else name
        raise AttributeError(
            f"modelkeep.{name} needs {error.name}, which is not installed; `pip install 'modelkeep[{extra}]'` brings it"
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES, "__version__"])
