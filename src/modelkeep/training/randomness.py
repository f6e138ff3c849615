"""The random generators that a whole process shares: captured as state, put back bit for bit.

Generators that a program makes for itself (``numpy.random.default_rng()``, ``torch.Generator()``) are
invisible from here; the frameworks' own layers keep theirs in the model's state.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

State = dict[str, Any]


def capture_generators() -> State:
    """Return the state of every process-wide generator of the libraries that are imported.

    Returns: a state tree with one entry per library (``random``, ``numpy``, ``torch``, ``tensorflow``,
    ``keras``); libraries that are not imported are absent. Nothing is imported and nothing is drawn.

    >>> saved = capture_generators()
    >>> first = random.random()
    >>> restore_generators(saved)
    >>> random.random() == first
    True
    """
    return {library: capture() for library, (capture, _) in _LIBRARIES.items() if library in sys.modules}


def restore_generators(saved: State) -> None:
    """Put the state that ``capture_generators`` returned back, for the libraries that are imported."""
    for library, (_, restore) in _LIBRARIES.items():
        if library in saved and library in sys.modules:
            restore(saved[library])


def global_draws() -> tuple[Any, ...]:
    """What differs once something has drawn from the generators that Python and numpy share.

    >>> before = global_draws()
    >>> global_draws() == before
    True
    """
    state = np.random.get_state(legacy=False)["state"]
    return random.getstate(), state["key"].tobytes(), state["pos"]


def _capture_python() -> State:
    return _of_python_generator(random.getstate())


def _restore_python(saved: State) -> None:
    random.setstate(_to_python_generator(saved))


def _of_python_generator(state: tuple[Any, ...]) -> State:
    version, words, gauss = state
    return {"version": version, "words": np.array(words, np.uint32), "gauss": gauss}


def _to_python_generator(saved: State) -> tuple[Any, ...]:
    return saved["version"], tuple(int(word) for word in saved["words"]), saved["gauss"]


def _capture_numpy() -> State:
    state = dict(np.random.get_state(legacy=False))
    return {**state, "state": {"key": state["state"]["key"].copy(), "pos": int(state["state"]["pos"])}}


def _restore_numpy(saved: State) -> None:
    np.random.set_state(saved)


def _capture_torch() -> State:
    torch = sys.modules["torch"]
    state = {"cpu": torch.get_rng_state().numpy().copy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = [one.numpy().copy() for one in torch.cuda.get_rng_state_all()]
    return state


def _restore_torch(saved: State) -> None:
    torch = sys.modules["torch"]
    torch.set_rng_state(torch.from_numpy(saved["cpu"].copy()))
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.from_numpy(one.copy()) for one in saved["cuda"]])


def _capture_tensorflow() -> State:
    """Eager ops draw their seeds from the context's own Python generator; graphs draw theirs when traced."""
    context = _tensorflow_context()
    state: State = {"seed": context._seed}
    if getattr(context, "_rng", None) is not None:
        state["eager"] = _of_python_generator(context._rng.getstate())
    generator = _tensorflow_generator()
    if generator is not None:
        state["generator"] = generator.state.numpy()
    return state


def _restore_tensorflow(saved: State) -> None:
    context = _tensorflow_context()
    if "eager" in saved:
        if getattr(context, "_rng", None) is None:
            context._rng = random.Random()
        context._rng.setstate(_to_python_generator(saved["eager"]))
    if "generator" in saved:
        sys.modules["tensorflow"].random.get_global_generator().state.assign(saved["generator"])


def _tensorflow_context() -> Any:
    from tensorflow.python.eager import context

    return context.context()


def _tensorflow_generator() -> Any:
    from tensorflow.python.ops import stateful_random_ops

    return stateful_random_ops.global_generator


def _capture_keras() -> State:
    """The generator behind ``keras.random`` calls without a seed; made on its first use."""
    generator = _keras_generator()
    if generator is None:
        return {}
    return {"state": np.array(sys.modules["keras"].ops.convert_to_numpy(generator.state))}


def _restore_keras(saved: State) -> None:
    if "state" not in saved:
        return
    from keras.src.random.seed_generator import global_seed_generator

    global_seed_generator().state.assign(saved["state"])


def _keras_generator() -> Any:
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

    return global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)


_LIBRARIES: dict[str, tuple[Callable[[], State], Callable[[State], None]]] = {
    "random": (_capture_python, _restore_python),
    "numpy": (_capture_numpy, _restore_numpy),
    "torch": (_capture_torch, _restore_torch),
    "tensorflow": (_capture_tensorflow, _restore_tensorflow),
    "keras": (_capture_keras, _restore_keras),
}
