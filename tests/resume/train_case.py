"""One training of the resume tests, as a process of its own: it may be told to kill itself with SIGKILL.

``python train_case.py CASE KEEP OUT [SEED]``: ``CASE`` is JSON (see ``Case`` in ``cases.py``), ``OUT`` receives what
the training ended with, and with ``SEED`` the process dies at a random moment that follows from it.
"""

import json
import os
import pickle
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cases
import keras

import modelkeep as mk
from modelkeep.backend.local import LocalBackend
from modelkeep.frameworks import keras as keras_door

CASE, KEEP, OUT = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]


class Reaper:
    """Kills this process with SIGKILL a few milliseconds after a random event of a random kind."""

    def __init__(self, seed: int | None) -> None:
        draw = random.Random(seed)
        self._kind = draw.choice(["batch", "validation", "save", "epoch"]) if seed is not None else None
        most = {"batch": 25, "validation": 8, "save": 40, "epoch": 2}.get(self._kind or "", 1)
        self._left = draw.randint(1, most)
        self._delay = draw.uniform(0, 0.01)
        self._lock = threading.Lock()

    def tell(self, kind: str) -> None:
        if kind != self._kind:
            return
        with self._lock:
            self._left -= 1
            due = self._left == 0
        if due:
            threading.Thread(target=self._strike, daemon=True).start()

    def _strike(self) -> None:
        time.sleep(self._delay)
        with Path(f"{OUT}.killed").open("a") as log:
            log.write(f"{self._kind}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def callback(self) -> keras.callbacks.Callback:
        return Told(self)

    def watch(self, backend: type[LocalBackend]) -> None:
        """Count the storage calls of saves as events."""
        for name in ("create", "writer", "list"):
            method = getattr(backend, name)

            def counted(*args: Any, _method: Any = method, **options: Any) -> Any:
                self.tell("save")
                return _method(*args, **options)

            setattr(backend, name, counted)


class Told(keras.callbacks.Callback):
    """Tells the reaper what happens; what it counts is not of the training."""

    def __init__(self, reaper: Reaper) -> None:
        super().__init__()
        self.reaper = reaper

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.reaper.tell("batch")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.reaper.tell("validation")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.reaper.tell("epoch")

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


def asker() -> list[keras.callbacks.Callback]:
    """With ``term`` in the case: SIGTERM to this process in the first batch of that validation, in its first life."""
    asked = Path(f"{OUT}.asked")
    if "term" not in CASE or asked.exists():
        return []
    seen = iter(range(1, 1000))

    def begin(logs: Any) -> None:
        if next(seen) == CASE["term"]:
            asked.touch()
            os.kill(os.getpid(), signal.SIGTERM)

    return [keras.callbacks.LambdaCallback(on_test_begin=begin)]


def main() -> None:
    if CASE["data"].startswith("tf_data"):
        import tensorflow as tf  # noqa: F401  as at the top of a script: the run seeds what is imported
    reaper = Reaper(int(sys.argv[4]) if len(sys.argv) > 4 else None)
    run = mk.open(KEEP).run("case", seed=5, capture=False)
    reaper.watch(LocalBackend)
    case = cases.build(CASE, OUT)
    history = mk.keras.fit(
        case.model,
        *case.data,
        run=run,
        callbacks=[*case.callbacks, reaper.callback(), *asker()],
        checkpoint=mk.every(**CASE.get("every", {"steps": 3, "epochs": 1})),
        verbose=0,
        **case.fit,
    )
    result = {
        "history": history.history,
        "epochs": history.epoch,
        "state": keras_door.state_of(case.model, copy=True),
        "callbacks": case.observed(),
    }
    Path(OUT).write_bytes(pickle.dumps(result))
    run.close()


if __name__ == "__main__":
    main()
