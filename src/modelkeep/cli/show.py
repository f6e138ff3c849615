"""``modelkeep show``: a run, a version of a model, or what is in a snapshot."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli.exits import exit_codes, tell_damage
from modelkeep.cli.models import show_version
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_names, find_run, is_model, open_keep
from modelkeep.cli.output import is_terminal, print_gap, print_json, print_table, shown_bytes, shown_metrics, shown_time

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.snapshot import Snapshot
    from modelkeep.store import Attempt, RunRecord
    from modelkeep.training.summary import RunSummary
    from modelkeep.values import Json

HELP = "Show a run (RUN), a version of a model (MODEL@REV), or a snapshot (RUN@REV, or the first digits of its id)."
EPILOG = exit_codes(3, 4, 5, 7, 9)

_ON_A_TERMINAL = 40
"""Tensors and values that are listed before "and N more"."""


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", autocompletion=complete_names, help="A run, a version, or a snapshot.")
    ],
    *,
    everything: Annotated[bool, typer.Option("--all", help="Each tensor and value, however many.")] = False,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a run or a snapshot."""
    from modelkeep.values import Ref

    parsed = Ref.parse(ref)
    opened = open_keep(parsed.keep or keep)
    named = f"{parsed.kind}:{parsed.name}" if parsed.kind else parsed.name
    if parsed.kind != "snapshot" and is_model(opened, named) and not everything:
        show_version(opened, parsed, as_json=as_json, quiet=quiet)
    elif parsed.kind != "snapshot" and "@" not in ref:
        _show_run(opened, find_run(opened, parsed.name), as_json=as_json, quiet=quiet)
    else:
        limit = None if everything or not is_terminal() else _ON_A_TERMINAL
        _show_snapshot(opened.snapshot(parsed), limit, as_json=as_json, quiet=quiet)


def _show_run(keep: "Keep", record: "RunRecord", *, as_json: bool, quiet: bool) -> None:
    from modelkeep.training.summary import summarize

    summary = summarize(keep.store, record.name)
    attempts = record.attempts(on_damage=lambda *_: None)  # the summary tells of it
    if as_json:
        print_json(_run_document(record, summary, attempts))
    elif quiet:
        print(record.name)
    else:
        _print_run(summary, attempts)
    tell_damage([f"run {record.name}: {summary.damage}"] if summary.damage else [])


def _run_document(record: "RunRecord", summary: "RunSummary", attempts: "list[Attempt]") -> dict[str, Any]:
    from modelkeep.training.plain import decode

    first, last = _first_and_last(attempts)
    return {
        "run": record.name,
        "state": summary.state,
        "seed": first.get("seed"),
        "params": decode(last.get("params")) or {},
        "fork": first.get("fork"),
        "finished": decode(record.finished()) if summary.state == "finished" else None,
        "checkpoints": summary.checkpoints,
        "nbytes": summary.nbytes,
        "attempts": [{"number": one.number, "time": one.time, **one.info} for one in attempts],
        "damage": summary.damage,
    }


def _first_and_last(attempts: "list[Attempt]") -> "tuple[Mapping[str, Json], Mapping[str, Json]]":
    """What was recorded at the start of the first and of the last attempt; nothing where no record can be read."""
    from modelkeep.training.adoption.kinds import is_adoption

    trained = [one for one in attempts if not is_adoption(one)]  # such a one has neither seed nor parameters
    return (trained[0].info, trained[-1].info) if trained else ({}, {})


def _print_run(summary: "RunSummary", attempts: "list[Attempt]") -> None:
    from modelkeep.training.plain import decode

    first, last = _first_and_last(attempts)
    params = decode(last.get("params")) or {}
    about = [
        ("state", summary.state),
        ("seed", str(first.get("seed", "unknown"))),
        ("newest checkpoint", _newest(summary)),
        ("metrics", shown_metrics(summary.metrics)),
        ("checkpoints", f"{summary.checkpoints}, {shown_bytes(summary.nbytes)}"),
        ("exact", _exact(summary)),
        *_forked(first.get("fork")),
        *((f"params.{name}", repr(value)) for name, value in sorted(params.items())),
        *_environment(last.get("environment")),
    ]
    print_table(f"run {summary.name}", ("what", "value"), [pair for pair in about if pair[1]])
    rows = [(str(one.number), shown_time(one.time), _resumed(one.info), _where(one.info)) for one in attempts]
    if rows:
        print_gap()
        print_table("attempts", ("attempt", "started", "from", "where"), rows, right={"attempt"})


def _newest(summary: "RunSummary") -> str:
    if summary.step is not None:
        return f"step {summary.step}, epoch {summary.epoch}"
    return "none that can be read" if summary.checkpoints else "none yet"


def _exact(summary: "RunSummary") -> str:
    if summary.step is None and summary.checkpoints:
        return ""  # it stands in the record that cannot be read
    return "yes" if summary.exact else "no"


def _forked(fork: Any) -> list[tuple[str, str]]:
    return [("forked from", f"{fork.get('ref')} ({str(fork.get('snapshot'))[:8]})")] if isinstance(fork, dict) else []


def _environment(environment: Any) -> list[tuple[str, str]]:
    if not isinstance(environment, dict):
        return []
    git = environment.get("git")
    commit = f"{str(git.get('commit'))[:12]}{' + changes' if git.get('dirty') else ''}" if isinstance(git, dict) else ""
    command_line = " ".join(str(word) for word in environment.get("command") or [])
    return [("python", str(environment.get("python"))), ("git", commit), ("command", command_line)]


def _resumed(info: Any) -> str:
    adopted = info.get("adopted")
    if isinstance(adopted, dict):
        return f"{adopted.get('source')} ({adopted.get('kind')})"
    resumed = info.get("resumed_from")
    return f"step {resumed.get('step')}, epoch {resumed.get('epoch')}" if isinstance(resumed, dict) else "the beginning"


def _where(info: Any) -> str:
    environment = info.get("environment")
    if not isinstance(environment, dict):
        return ""
    return f"{environment.get('host')}, process {environment.get('process')}"


def _show_snapshot(snapshot: "Snapshot", limit: int | None, *, as_json: bool, quiet: bool) -> None:
    from modelkeep.state.tree import is_tensor, leaf_paths

    if as_json:
        print_json(_document(snapshot))
        return
    if quiet:
        print(snapshot.id)
        return
    shown = ("kind", "run", "attempt", "step", "epoch", "reason", "seed", "not_exact", "parents")
    about = [("id", snapshot.id), ("state digest", snapshot.state_digest), ("size", shown_bytes(snapshot.nbytes))]
    about += [(name, _text(snapshot.meta[name])) for name in shown if snapshot.meta.get(name) not in (None, [], {})]
    about += _metrics(snapshot)
    about += [(name, _text(value)) for name, value in snapshot.meta.items() if name not in {*shown, *_ELSEWHERE}]
    print_table("snapshot", ("what", "value"), about)
    _print_parts(snapshot)
    rows = [
        (path, spec.dtype, _text(list(spec.shape)), shown_bytes(snapshot.grid(path).nbytes))
        for path, spec in snapshot.tensors.items()
    ]
    _print_some("tensors", ("tensor", "dtype", "shape", "size"), rows, limit)
    values = [(path, _text(node)) for path, node in leaf_paths(snapshot.structure) if not is_tensor(node)]
    _print_some("JSON state", ("value", "is"), values, limit)


def _document(snapshot: "Snapshot") -> dict[str, Any]:
    tensors = [
        {"path": path, "dtype": spec.dtype, "shape": list(spec.shape), "nbytes": snapshot.grid(path).nbytes}
        for path, spec in snapshot.tensors.items()
    ]
    return {
        "id": snapshot.id,
        "state_digest": snapshot.state_digest,
        "nbytes": snapshot.nbytes,
        "meta": dict(snapshot.meta),
        "tensors": tensors,
        "state": snapshot.structure,
    }


_ELSEWHERE = ("fingerprint", "params", "metrics")


def _metrics(snapshot: "Snapshot") -> list[tuple[str, str]]:
    from modelkeep.training.plain import decode

    found: list[tuple[str, str]] = []
    for part in ("metrics", "params"):
        values = decode(snapshot.meta.get(part))
        if isinstance(values, dict):
            found += [(f"{part}.{name}", repr(value)) for name, value in sorted(values.items())]
    fingerprint = snapshot.meta.get("fingerprint")
    packages = fingerprint.get("packages") if isinstance(fingerprint, dict) else None
    if isinstance(packages, dict):
        found.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    return found


def _print_parts(snapshot: "Snapshot") -> None:
    """The parts of the state (model, optimizer, …) and what they weigh."""
    parts: dict[str, list[int]] = {}
    for path in snapshot.tensors:
        parts.setdefault(path.split("/")[0], []).append(snapshot.grid(path).nbytes)
    if len(parts) > 1:
        print_gap()
        rows = [(name, str(len(sizes)), shown_bytes(sum(sizes))) for name, sizes in parts.items()]
        print_table("parts", ("part", "tensors", "size"), rows, right={"tensors", "size"})


def _print_some(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], limit: int | None) -> None:
    if not rows:
        return
    print_gap()
    print_table(title, columns, rows[:limit], right={"size"})
    if limit is not None and len(rows) > limit:
        print(f"  and {len(rows) - limit} more; --all shows them")


def _text(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"
