"""Write the keep that `test_golden_keep.py` reads: once for a format, before its release, and never again.

``python tests/golden/write.py tests/golden/v1``, from the root of the repository. Nothing in it is drawn or measured
but the id of the keep, so that a reader of the test knows each value, and each id can be computed again.
"""

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from modelkeep.backend import LocalBackend
from modelkeep.snapshot import Snapshot, pieces
from modelkeep.store import Store, free

PIECE_BYTES = 1024
"""The format lets a writer choose how many rows a piece has; so small a keep would have none of two pieces else."""

DIGITS, ODD, ALONE = "5c329371a426a3ba", "0123456789abcdef", "fedcba9876543210"
"""The tokens of the three writers."""

INTEGERS = {"int2": [-2, -1, 0, 1], "int4": [-8, -1, 0, 7], "uint2": [0, 1, 2, 3], "uint4": [0, 1, 8, 15]}
FLOATS = [
    "bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4", "float8_e4m3",
    "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip
NEWER = {"int1": [-1, 0], "uint1": [0, 1], "complex32": [1 + 2j, -0.5j], "bcomplex32": [1 + 2j, -0.5j]}
"""What older versions of ml_dtypes than the pinned one lack."""


class Clocked(LocalBackend):
    """A place whose clock moves one second with each look."""

    time = 1_795_521_600.0

    def now(self) -> float:
        self.time += 1
        return self.time


def digits(step: int) -> dict[str, Any]:
    """A small training: a frozen kernel of three pieces, which all checkpoints share, and what each step changes."""
    return {
        "model": {"kernel": np.arange(600, dtype="f4").reshape(100, 6), "bias": np.full(6, step, "f4")},
        "optimizer": {"iterations": np.int64(step), 0: {"momentum": np.full((6, 2), -step, "f8")}},
        "step": step,
        "rng": ("PCG64", 2**127 + step, (step, None)),
    }


def odd_keys() -> dict[Any, Any]:
    """Keys that a path cannot hold as they are, and integers beside texts that look like them."""
    awkward = ["", "a/b", "%", "%2F", "3", "-1", "$x", "$", "__metadata__", "*", "a#rows-0-1", "é", "\0", "日本"]
    texts = {key: np.array([number], "i2") for number, key in enumerate(awkward)}
    return {"texts": texts, "numbers": {3: np.array([3], "i2"), "3": "three", -1: None, 2**80: [True], 0: ()}}


def odd_values() -> dict[str, Any]:
    """Values whose bits are easily lost."""
    return {
        "json": [None, True, False, 0, 1.0, -0.0, 5e-324, 2**53 + 1, -(2**100), 1 << 5000, "", "a\0b", "\u2028", []],
        "floats": [float("inf"), float("-inf"), float("nan"), np.uint64(0xFFF8_0000_0000_0123).view("f8")],
        "complex": [complex(-0.0, float("inf")), 1j],
        "bytes": [b"", b"\0\xff", bytes(range(256)) * 20],
        "tuple": ((), ((1,), [(2,)])),
        "nan": np.array([0x7FC0_0000, 0xFFC0_0001, 0x7F80_0001, 0x8000_0000, 1], "<u4").view("<f4"),
        "scalar": np.float16(-0.0),
        "empty": np.empty((0, 3), "i2"),
        "big-endian": np.arange(6, dtype=">i8"),
        "turned": np.arange(12, dtype="u2").reshape(3, 4).T,
    }


def odd_dtypes() -> dict[str, Any]:
    """An array of every dtype but those of `newer_dtypes`."""
    plain = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
    values = np.array([0, 1, 2, 96, 127])
    return {
        "bool": np.array([True, False]),
        "plain": {kind: values.astype(kind) for kind in plain},
        "custom": {
            **{name: np.array(numbers).astype(getattr(ml_dtypes, name)) for name, numbers in INTEGERS.items()},
            **{name: np.array([1.0, 2.0, 0.5, 4.0]).astype(getattr(ml_dtypes, name)) for name in FLOATS},
        },
        "texts": {
            "str": np.array([["a", "é\0"], ["", "日本"]], object),
            "bytes": np.array([b"\xff", b"", b"x\0"], object),
            "U": np.array(["one", "séven"]),
            "S": np.array([b"one", b"seven\xff"]),
            "none": np.empty((0, 2), object),
        },
        "times": {
            "ns": np.array([0, 1, -1], "M8[ns]"),
            "not a time": np.array(["NaT", "2026-11-24"], "M8[D]"),
            "apart": np.array([5, -5], "m8[us]"),
            "no unit": np.array([7], "m8"),
        },
    }


def newer_dtypes() -> dict[str, Any]:
    """Dtypes that need a version of ml_dtypes later than 0.5."""
    return {name: np.array(numbers).astype(getattr(ml_dtypes, name)) for name, numbers in NEWER.items()}


STATES = {
    "run:digits@20": lambda: digits(20),
    "run:digits@30": lambda: digits(30),
    "run:digits@40": lambda: digits(40),
    "run:odd@1": odd_keys,
    "run:odd@2": odd_values,
    "run:odd@3": odd_dtypes,
    "run:odd@4": newer_dtypes,
}
"""The state of each checkpoint, by REF."""


def write_digits(store: Store) -> None:
    """Two attempts: the second went on from step 20 and computed 30 again; then the first checkpoint was dropped."""
    run = store.run("digits")
    donor: Snapshot | None = None
    resumed = None
    for number, steps in enumerate([(10, 20, 30), (30, 40)], 1):
        attempt = run.start_attempt({"params": {"lr": 0.1}, "resumed_from": resumed, "seed": 7, "writer": DIGITS})
        for step in steps:
            loss = {10: float("nan"), 20: 0.25, 30: float("inf"), 40: 0.5}[step]
            values = {"loss": loss, "accuracy": np.float32(0.1)}
            run.append_metrics(attempt, [{"step": step, "epoch": step // 10 - 1, "values": values}])
            if (number, step) == (1, 30):
                continue  # killed before it was saved
            meta = {"kind": "checkpoint", "run": "digits", "step": step, "parents": [donor.id] if donor else []}
            donor = store.save(digits(step), meta=meta, writer=DIGITS, donor=donor)
            made = run.commit_checkpoint(
                attempt, donor, step=step, epoch=step // 10, metrics=values, exact=step < 40, reason="policy"
            )
        resumed = {"checkpoint": made.number, "attempt": 1, "snapshot": made.snapshot_id, "step": 20, "epoch": 2}
    dropped = [one for one in run.checkpoints() if one.number == 1]
    run.drop([1])
    free(store, dropped)
    run.finish(attempt, {"epochs": 4, "stopped": False})


def write_odd(store: Store) -> None:
    """One attempt that was never finished."""
    run = store.run("odd")
    attempt = run.start_attempt({"writer": ODD})
    for step, state in enumerate([odd_keys(), odd_values(), odd_dtypes(), newer_dtypes()], 1):
        snapshot = store.save(state, meta={"kind": "checkpoint", "run": "odd", "step": step}, writer=ODD)
        run.commit_checkpoint(attempt, snapshot, step=step, epoch=0, reason="start" if step == 1 else "final")


def write_keep(folder: Path) -> None:
    """Write the keep at ``folder``, which must not be there."""
    if folder.exists():
        sys.exit(f"{folder} is there, and a golden keep is written once")
    usual, pieces.PIECE_BYTES = pieces.PIECE_BYTES, PIECE_BYTES
    try:
        store = Store.open(Clocked(folder))
        write_digits(store)
        write_odd(store)
        store.save(digits(0), meta={"kind": "state"}, writer=ALONE)
    finally:
        pieces.PIECE_BYTES = usual


if __name__ == "__main__":
    write_keep(Path(sys.argv[1]))
