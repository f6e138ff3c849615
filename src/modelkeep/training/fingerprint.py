"""What of a machine and its settings decides the bits of a training, and how two of them differ.

The same convolution gives other bits with another number of threads, another version, another kind of CPU. So all of
this is recorded with each checkpoint and compared when a training goes on. A fingerprint is JSON of four parts:
``machine`` and ``packages`` are fixed for a process; ``settings`` and ``variables`` a script may still change.
Only what is imported already is looked at: a framework that is not imported cannot have computed anything.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from modelkeep.values import Json

Fingerprint = dict[str, dict[str, str]]

PARTS = ("machine", "packages", "settings", "variables")
FIXED = ("machine", "packages")
"""The parts that stay the same from the start of a process to its end."""

_FRAMEWORKS = ("jax", "tensorflow", "torch")
_PACKAGES = ("numpy", "keras", "jax", "jaxlib", "tensorflow", "torch")
_VARIABLES = {
    "": ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    "jax": ("XLA_FLAGS",),
    "tensorflow": ("XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS", "TF_XLA_FLAGS"),
    "torch": ("CUBLAS_WORKSPACE_CONFIG", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
}


def fingerprint() -> dict[str, Json]:
    """Return the fingerprint of this process as it is now. Imports nothing and starts no device.

    >>> sorted(fingerprint())
    ['machine', 'packages', 'settings', 'variables']
    """
    return {
        "machine": {**_machine(), **_backend()},
        "packages": {**_packages()},
        "settings": {**_settings()},
        "variables": {**_variables()},
    }


def compare_fingerprints(old: object, new: object, parts: Sequence[str] = PARTS) -> list[str]:
    """Return one line for each difference that may change bits: its name, its value then and its value now.

    What only one of the two has looked at (a framework that was not imported) is no difference; two that share no
    framework at all are.

    >>> compare_fingerprints({"packages": {"jax": "0.9"}}, {"packages": {"jax": "0.10"}})
    ['jax: 0.9 then, 0.10 now']
    """
    found: list[str] = []
    for part in parts:
        before, now = _part(old, part), _part(new, part)
        found += [
            f"{name}: {before[name] or '(not set)'} then, {now[name] or '(not set)'} now"
            for name in before
            if name in now and before[name] != now[name]
        ]
    then, today = (sorted(_part(one, "packages").keys() & set(_FRAMEWORKS)) for one in (old, new))
    if then and today and not set(then) & set(today):
        found.append(f"framework: {', '.join(then)} then, {', '.join(today)} now")
    return found


def _part(whole: object, part: str) -> dict[str, str]:
    """One part of a fingerprint that may come from another version of modelkeep."""
    entries = whole.get(part) if isinstance(whole, dict) else None
    return {name: str(value) for name, value in entries.items()} if isinstance(entries, dict) else {}


def _loaded(name: str) -> Any | None:
    """A module that has been imported to its end."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return None if module is None or getattr(spec, "_initializing", False) else module


@cache
def _machine() -> dict[str, str]:
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}) else None
    model, flags = _processor()
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "platform": " ".join(part for part in (platform.system(), platform.machine(), libc) if part),
        "cpu": model,
        "cpu features": flags,
    }


def _processor() -> tuple[str, str]:
    """Model and a hash of the instruction sets: kernels are chosen by them, and by the cache size."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), ""
    first = dict(_fields(text.split("\n\n")[0]))
    names = ("model name", "cpu family", "model", "stepping", "cache size", "CPU implementer", "CPU part")
    model = ", ".join(
        f"{name} {first[name]}" if name != "model name" else first[name] for name in names if name in first
    )
    flags = " ".join(sorted((first.get("flags") or first.get("Features") or "").split()))
    return model, hashlib.blake2b(flags.encode(), digest_size=8).hexdigest()


def _fields(paragraph: str) -> Iterator[tuple[str, str]]:
    for line in paragraph.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _backend() -> dict[str, str]:
    keras = _loaded("keras")
    return {"keras backend": keras.backend.backend()} if keras is not None else {}


def _packages() -> dict[str, str]:
    versions = {name: getattr(_loaded(name), "__version__", None) for name in _PACKAGES}
    return {name: str(version) for name, version in versions.items() if version is not None}


def _settings() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, look in _SETTINGS.items():
        module = _loaded(name)
        if module is not None:
            found |= {f"{name} {setting}": str(value) for setting, value in look(module).items()}
    return found


def _keras_settings(keras: Any) -> dict[str, Any]:
    return {"floatx": keras.config.floatx(), "image data format": keras.config.image_data_format()}


def _tensorflow_settings(tensorflow: Any) -> dict[str, Any]:
    threading, experimental = tensorflow.config.threading, tensorflow.config.experimental
    return {
        # 0 stands for "as many as there are cores"
        "threads in an operation": threading.get_intra_op_parallelism_threads() or _cores(),
        "threads across operations": threading.get_inter_op_parallelism_threads() or _cores(),
        "jit": tensorflow.config.optimizer.get_jit() or "off",
        "TensorFloat-32": experimental.tensor_float_32_execution_enabled(),
        "deterministic operations": _is_deterministic(),
        "devices": _count_kinds(device.device_type for device in tensorflow.config.list_physical_devices()),
    }


def _is_deterministic() -> Any:
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


def _torch_settings(torch: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "default dtype": torch.get_default_dtype(),
    }
    if not torch.cuda.is_available():
        return {**found, "devices": "cpu"}
    cudnn = torch.backends.cudnn
    kinds = (torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return {
        **found,
        "devices": _count_kinds(kinds),
        "cuda": torch.version.cuda,
        "cudnn": f"{cudnn.version()}, benchmark {cudnn.benchmark}, deterministic {cudnn.deterministic}",
    }


def _jax_settings(jax: Any) -> dict[str, Any]:
    names = ("enable_x64", "default_matmul_precision", "default_prng_impl", "threefry_partitionable")
    found: dict[str, Any] = {name.replace("_", " "): getattr(jax.config, f"jax_{name}") for name in names}
    if _jax_has_started():
        found["devices"] = _count_kinds(device.device_kind for device in jax.devices())
        if jax.default_backend() == "cpu":
            found["threads"] = _cores()
    return found


def _jax_has_started() -> bool:
    """To ask jax for its devices starts it, after which ``jax.distributed.initialize`` comes too late."""
    from jax._src import xla_bridge

    return bool(xla_bridge.backends_are_initialized())


_SETTINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "jax": _jax_settings,
    "keras": _keras_settings,
    "tensorflow": _tensorflow_settings,
    "torch": _torch_settings,
}


def _variables() -> dict[str, str]:
    """The variables that the imported frameworks read, as empty text where they are not set."""
    names = {name for owner, names in _VARIABLES.items() if not owner or _loaded(owner) is not None for name in names}
    return {name: _without_paths(os.environ.get(name, "")) for name in sorted(names)}


def _without_paths(flags: str) -> str:
    """Where XLA dumps its programs changes nothing that it computes."""
    return " ".join(flag for flag in flags.split() if not flag.startswith("--xla_dump"))


def _cores() -> int:
    """The cores that this process may use, which thread pools are sized by."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _count_kinds(kinds: Iterator[str]) -> str:
    """Devices by kind: ``2 × GPU``."""
    found = list(kinds)
    return ", ".join(f"{found.count(kind)} × {kind}" for kind in sorted(set(found)))
