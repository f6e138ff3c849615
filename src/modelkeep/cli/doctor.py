"""``modelkeep doctor``: whether a place is fit for a keep, how fast it is, and what checkpoints will cost there."""

import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption
from modelkeep.cli.output import print_gap, print_json, print_table, shown_bytes

if TYPE_CHECKING:
    from modelkeep.store.measures import Cost, Diagnosis

HELP = """Try and measure the disk of a keep, or of the folder where one will be; or an object store, from here.

Half a GiB is written and removed."""
EPILOG = exit_codes(7)

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_BUSY = 0.5


def command(
    place: Annotated[str | None, typer.Argument(metavar="KEEP", help="The keep or folder; the same as --keep.")] = None,
    *,
    size: Annotated[str, typer.Option("--size", help="Of one checkpoint: 500M, 2G.")] = "1G",
    every: Annotated[float, typer.Option("--every", min=0.001, help="Seconds from one checkpoint to the next.")] = 300,
    last: Annotated[int, typer.Option("--last", min=1, help="How many checkpoints stay.")] = 3,
    keep: KeepOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine a place."""
    from modelkeep.errors import StorageError
    from modelkeep.training.place import default_place

    nbytes = _parse_size(size)
    found = _examine(place or keep or default_place())
    cost = found.cost(nbytes, seconds=every, keep=last)
    advice = _advice(found, cost, every)
    if as_json:
        print_json({**asdict(found), "ok": found.ok, "cost": asdict(cost), "advice": advice})
    else:
        _print(found, cost, nbytes, every, advice)
    if not found.ok:
        raise typer.Exit(StorageError.exit_code)


def _parse_size(text: str) -> int:
    from modelkeep.errors import UsageError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--size takes a number of bytes such as 500M or 2G, not {text!r:.40}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _examine(place: str) -> "Diagnosis":
    """A keep is only tried in, never made: where there is none, a folder beside it stands for it."""
    from modelkeep.backend import open_backend
    from modelkeep.store.doctor import examine

    if "://" in place or os.path.isdir(place):
        return examine(open_backend(place, create=False))
    above = Path(place).absolute()
    while not above.is_dir():
        above = above.parent
    with tempfile.TemporaryDirectory(prefix=".modelkeep-doctor-", dir=above) as folder:
        return examine(open_backend(folder))


def _advice(found: "Diagnosis", cost: "Cost", every: float) -> list[str]:
    said = [check.advice for check in found.checks if check.advice]
    if cost.busy > _BUSY:
        said.append(
            f"a checkpoint takes {cost.save_seconds:.1f} s and one is due each {every:g} s: save at most every "
            f"{cost.save_seconds / _BUSY:.0f} s, mk.every(seconds={cost.save_seconds / _BUSY:.0f})"
        )
    if found.free_bytes is not None and cost.disk_bytes > found.free_bytes:
        said.append(
            f"{shown_bytes(cost.disk_bytes)} are wanted and {shown_bytes(found.free_bytes)} free: keep fewer, "
            "mk.retain(last=1), or take another disk"
        )
    return said


def _print(found: "Diagnosis", cost: "Cost", nbytes: int, every: float, advice: list[str]) -> None:
    rows = [(check.name, check.verdict, check.found) for check in found.checks]
    print_table(f"{found.place}, on {found.file_system}", ("promise", "verdict", "found"), rows)
    print_gap()
    speeds = found.speeds
    measured = [
        ("durable write", f"{shown_bytes(int(speeds.write))}/s"),
        ("read", f"{shown_bytes(int(speeds.read))}/s"),
        ("hash", f"{shown_bytes(int(speeds.hash))}/s"),
        ("small durable write", f"{speeds.sync_seconds * 1e3:.2f} ms"),
        ("free", "unknown" if found.free_bytes is None else shown_bytes(found.free_bytes)),
    ]
    print_table("measured", ("what", "here"), measured, right=("here",))
    print_gap()
    costs = [
        ("saved in", f"{cost.save_seconds:.2f} s, in the background"),
        ("loaded in", f"{cost.load_seconds:.2f} s"),
        ("writer busy", f"{cost.busy:.1%} of the time"),
        ("taken up", shown_bytes(cost.disk_bytes)),
    ]
    print_table(f"a checkpoint of {shown_bytes(nbytes)} every {every:g} s", ("estimate", "cost"), costs)
    for line in advice:
        print(f"advice: {line}")
