"""``modelkeep ls``: the runs of a keep, or the checkpoints of a run."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_runs, find_run, open_keep
from modelkeep.cli.output import print_json, print_table, shown_bytes, shown_metrics, shown_time
from modelkeep.errors import Damaged

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.store import Checkpoint

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
    if quiet:
        for name in keep.names():
            print(name)
        return
    runs = keep.runs()
    if as_json:
        print_json({"keep": keep.url, "runs": [asdict(one) for one in runs]})
        return
    if not runs:
        print(f"no runs yet in {keep.url}")
        return
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
    damages = [f"run {one.name}: {one.damage}" for one in runs if one.damage]
    if damages:
        raise Damaged("; ".join(damages))


def _list_checkpoints(keep: "Keep", name: str, *, dropped: bool, as_json: bool, quiet: bool) -> None:
    record = find_run(keep, name)
    damages: list[str] = []

    def on_damage(_: str, error: Exception) -> None:
        damages.append(str(error))

    checkpoints = list(record.iterate_checkpoints(dropped=dropped, on_damage=on_damage))
    _print_checkpoints(keep, record.name, checkpoints, as_json=as_json, quiet=quiet)
    if damages:
        raise Damaged("; ".join(damages))


def _print_checkpoints(keep: "Keep", run: str, checkpoints: "list[Checkpoint]", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json({"keep": keep.url, "run": run, "checkpoints": [asdict(one) for one in checkpoints]})
        return
    if quiet:
        for one in checkpoints:
            print(f"run:{run}@{one.step}")
        return
    if not checkpoints:
        print(f"run {run} has no checkpoints yet")
        return
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
