"""``modelkeep ls``: the runs and models of a keep, the checkpoints of a run, or the versions of a model."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes, tell_damage
from modelkeep.cli.models import list_versions, print_models, summaries
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_names, find_run, is_model, open_keep
from modelkeep.cli.output import print_gap, print_json, print_table, shown_bytes, shown_metrics, shown_time

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.store import Checkpoint
    from modelkeep.training.summary import RunSummary

HELP = "List runs and models; or the checkpoints of a run, the versions of a model, the newest first."
EPILOG = exit_codes(3, 4, 5, 7)


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", autocompletion=complete_names, help="List the checkpoints or versions of it."),
    ] = None,
    *,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Checkpoints that retention let go, versions that were removed, too.")
    ] = False,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List what is in a keep."""
    opened = open_keep(keep)
    if name is None:
        _list_all(opened, as_json=as_json, quiet=quiet)
    elif is_model(opened, name):
        record = opened.model(name.removeprefix("model:"))
        list_versions(opened, record, removed=dropped, as_json=as_json, quiet=quiet)
    else:
        _list_checkpoints(opened, name, dropped=dropped, as_json=as_json, quiet=quiet)


def _list_all(keep: "Keep", *, as_json: bool, quiet: bool) -> None:
    runs, models = keep.runs(), summaries(keep)
    if as_json:
        print_json({"keep": keep.url, "runs": [asdict(one) for one in runs], "models": models})
    elif quiet:
        for name in [*(one.name for one in runs), *(f"model:{one['name']}" for one in models)]:
            print(name)
    elif runs or models:
        if runs:
            _print_runs(keep, runs)
        if runs and models:
            print_gap()
        if models:
            print_models(keep.url, models)
    else:
        print(f"no runs and no models yet in {keep.url}")
    tell_damage(
        [
            *(f"run {one.name}: {one.damage}" for one in runs if one.damage),
            *(f"model {one['name']}: {one['damage']}" for one in models if one["damage"]),
        ]
    )


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
