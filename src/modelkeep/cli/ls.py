"""``modelkeep ls``: the runs of a keep, or the checkpoints of a run."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes, tell_damage
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_runs, find_run, open_keep
from modelkeep.cli.output import print_json, print_table, shown_bytes, shown_metrics, shown_time

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.store import Checkpoint
    from modelkeep.training.summary import RunSummary

HELP = "List the runs, or with RUN its checkpoints, the newest first."
EPILOG = exit_codes(3, 4, 5, 7)


def command(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", autocompletion=complete_runs, help="List its checkpoints.")
    ] = None,
    *,
    dropped: Annotated[bool, typer.Option("--dropped", help="Checkpoints that retention let go, too.")] = False,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List runs or checkpoints."""
    opened = open_keep(keep)
    if run is None:
        _list_runs(opened, as_json=as_json, quiet=quiet)
    else:
        _list_checkpoints(opened, run, dropped=dropped, as_json=as_json, quiet=quiet)


def _list_runs(keep: "Keep", *, as_json: bool, quiet: bool) -> None:
    runs = keep.runs()
    if as_json:
        print_json({"keep": keep.url, "runs": [asdict(one) for one in runs]})
    elif quiet:
        for one in runs:
            print(one.name)
    elif runs:
        _print_runs(keep, runs)
    else:
        print(f"no runs yet in {keep.url}")
    tell_damage(f"run {one.name}: {one.damage}" for one in runs if one.damage)


def _print_runs(keep: "Keep", runs: "list[RunSummary]") -> None:
    rows: list[tuple[str, ...]] = [
        (
            one.name,
            one.state,
            str(one.checkpoints),
            "" if one.step is None else str(one.step),
            "" if one.epoch is None else str(one.epoch),
            shown_metrics(one.metrics),
            shown_bytes(one.nbytes),
            shown_time(one.time),
            "" if one.exact else "no",
        )
        for one in runs
    ]
    columns = ["run", "state", "checkpoints", "step", "epoch", "metrics", "size", "saved", "exact"]
    if all(one.exact for one in runs):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(keep.url, columns, rows, right={"checkpoints", "step", "epoch", "size"})


def _list_checkpoints(keep: "Keep", name: str, *, dropped: bool, as_json: bool, quiet: bool) -> None:
    record = find_run(keep, name)
    damages: list[str] = []

    def on_damage(_: str, error: Exception) -> None:
        damages.append(str(error))

    checkpoints = list(record.iterate_checkpoints(dropped=dropped, on_damage=on_damage))
    if as_json:
        print_json({"keep": keep.url, "run": record.name, "checkpoints": [asdict(one) for one in checkpoints]})
    elif quiet:
        for one in checkpoints:
            print(f"run:{record.name}@{one.step}")
    elif checkpoints:
        _print_checkpoints(record.name, checkpoints)
    elif not damages:
        print(f"run {record.name} has no checkpoints yet")
    tell_damage(damages)


def _print_checkpoints(run: str, checkpoints: "list[Checkpoint]") -> None:
    rows: list[tuple[str, ...]] = [
        (
            f"run:{run}@{one.step}",
            str(one.epoch),
            shown_metrics(one.metrics),
            one.reason + (" (dropped)" if one.dropped else ""),
            str(one.attempt),
            shown_time(one.time),
            one.snapshot_id[:8],
            "" if one.exact else "no",
        )
        for one in checkpoints
    ]
    columns = ["checkpoint", "epoch", "metrics", "why", "attempt", "saved", "snapshot", "exact"]
    if all(one.exact for one in checkpoints):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(f"run {run}", columns, rows, right={"epoch", "attempt"})
