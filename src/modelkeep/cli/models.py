"""What the commands ``ls``, ``show`` and ``history`` say of models."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modelkeep.cli.exits import tell_damage
from modelkeep.cli.output import (
    is_terminal,
    print_gap,
    print_json,
    print_table,
    shown_bytes,
    shown_metrics,
    shown_time,
)

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.model.signature import Signature
    from modelkeep.snapshot import Snapshot
    from modelkeep.store import Export, ModelRecord, Version
    from modelkeep.values import Ref


def summaries(keep: "Keep") -> list[dict[str, Any]]:
    """A line of ``ls`` for each model."""
    return [_summary(keep.model(name)) for name in keep.models()]


def _summary(record: "ModelRecord") -> dict[str, Any]:
    damages: list[str] = []

    def on_damage(_: str, error: Exception) -> None:
        damages.append(str(error))

    versions = list(record.iterate_versions(on_damage=on_damage))
    newest = versions[0] if versions else None
    return {
        "name": record.name,
        "versions": len(versions),
        "newest": newest.number if newest else None,
        "time": newest.time if newest else None,
        "metrics": dict(newest.metrics) if newest else {},
        "aliases": record.aliases(on_damage=on_damage),
        "damage": "; ".join(damages),
    }


def print_models(title: str, models: list[dict[str, Any]]) -> None:
    """The table of ``ls``."""
    rows = [
        (
            one["name"],
            str(one["versions"]),
            "" if one["newest"] is None else f"model:{one['name']}@{one['newest']}",
            _pointing(one["aliases"]),
            shown_metrics(one["metrics"]),
            shown_time(one["time"]),
        )
        for one in models
    ]
    print_table(title, ("model", "versions", "newest", "aliases", "metrics", "published"), rows, right={"versions"})


def list_versions(keep: "Keep", record: "ModelRecord", *, removed: bool, as_json: bool, quiet: bool) -> None:
    """``ls model:NAME``: its versions, newest first."""
    damages: list[str] = []

    def on_damage(_: str, error: Exception) -> None:
        damages.append(str(error))

    versions = list(record.iterate_versions(removed=removed, on_damage=on_damage))
    aliases = record.aliases(on_damage=on_damage)
    if as_json:
        listed = [asdict(one) for one in versions]
        print_json({"keep": keep.url, "model": record.name, "versions": listed, "aliases": aliases})
    elif quiet:
        for one in versions:
            print(one.ref)
    elif versions:
        rows = [
            (
                one.ref + (" (removed)" if one.removed else ""),
                ", ".join(sorted(name for name, number in aliases.items() if number == one.number)),
                shown_metrics(one.metrics),
                ", ".join(f"model:{parent.model}@{parent.number}" for parent in one.parents),
                shown_time(one.time),
                one.snapshot_id[:8],
            )
            for one in versions
        ]
        print_table(f"model {record.name}", ("version", "aliases", "metrics", "parents", "published", "snapshot"), rows)
    tell_damage(damages)


def show_version(keep: "Keep", ref: "Ref", *, as_json: bool, quiet: bool) -> None:
    """``show MODEL@REV``: the card of a version, and what is in it."""
    from modelkeep.store.resolve import find_version

    version = find_version(keep.store, ref)
    snapshot = keep.snapshot(version)
    exports = keep.exports(version)
    aliases = [name for name, number in keep.model(version.model).aliases().items() if number == version.number]
    if as_json:
        about = {**asdict(version), "aliases": aliases, "nbytes": snapshot.nbytes, "meta": dict(snapshot.meta)}
        print_json(
            {
                "keep": keep.url,
                **about,
                "signature": _part(snapshot, "signature"),
                "card": _part(snapshot, "card"),
                "exports": [{**asdict(one), "proof": proof} for one, proof in exports],
            }
        )
        return
    if quiet:
        print(version.ref)
        return
    print_table(version.ref, ("what", "value"), _about(version, snapshot, sorted(aliases)))
    print_gap()
    print_table("layers", ("layer", "tensors", "parameters", "size"), _layers(snapshot), right=_NUMBERS)
    if exports:
        print_gap()
        print_exports("exports", exports)
    card = _part(snapshot, "card")
    if isinstance(card, str) and is_terminal():
        from rich.console import Console
        from rich.markdown import Markdown

        from modelkeep.cli.exits import printable

        Console().print(Markdown(printable(card).partition("\n---\n")[2]))


def print_exports(title: str, exports: "list[tuple[Export, dict[str, Any]]]") -> None:
    """The exports of a version, a row for each runtime that opened one."""
    columns = ("format", "size", "runtime", "differs by", "same top", "call")
    rows = [row for one, proof in exports for row in _proof_rows(one, proof)]
    print_table(title, columns, rows, right={"size", "same top", "call"})


def _proof_rows(export: "Export", proof: dict[str, Any]) -> list[tuple[str, ...]]:
    options = ", ".join(f"{name} {value}" for name, value in export.options.items())
    named = f"{export.format}{f' ({options})' if options else ''}"
    rows: list[tuple[str, ...]] = []
    further = [(one, name) for name, given in (proof.get("signatures") or {}).items() for one in given]
    proven = any(one.get("batches") for one in proof["runtimes"])
    for told, signature in [*((one, "") for one in proof["runtimes"]), *further]:
        runtime = f"{told['runtime']} {told['version']}"
        batches = told.get("batches")
        if not batches:
            reason = str(told.get("cannot") or told.get("differs") or "").partition("\n")[0]
            what = "no second opinion" if proven else "NOT PROVEN"
            rows.append((named, shown_bytes(proof["bytes"]), runtime, f"{what}: {reason:.60}", "", ""))
            continue
        worst = max(one["max_rel"] for one in batches)
        tops = [one["top"] for one in batches if one["top"] is not None]
        call = min(one["call_ms"] for one in batches)
        top = f"{min(tops):.0%}" if tops else ""
        gap = f"{worst:.1e} of the largest, {proof['tolerance']:.0e} tolerated"
        what = f"{export.format}, signature {signature}" if signature else named
        rows.append((what, shown_bytes(proof["bytes"]), runtime, gap, top, f"{call:.3g} ms"))
    return rows


_LABELS = 10
"""So many labels of an output are shown."""
_NUMBERS = {"tensors", "parameters", "size"}


def _about(version: "Version", snapshot: "Snapshot", aliases: list[str]) -> list[tuple[str, str]]:
    from modelkeep.model.signature import Signature

    signature = Signature.from_json(_part(snapshot, "signature"))
    meta = snapshot.meta
    rows = [
        ("aliases", ", ".join(aliases)),
        ("framework", str(meta.get("framework", ""))),
        ("takes", signature.shown_inputs),
        ("gives", signature.shown_outputs),
        ("labels", _shown_labels(signature)),
        ("parameters", f"{meta.get('parameters'):,}" if type(meta.get("parameters")) is int else ""),
        ("size", shown_bytes(snapshot.nbytes)),
        ("metrics", shown_metrics(version.metrics)),
        ("licence", str(meta.get("licence") or "")),
        ("parents", ", ".join(f"model:{one.model}@{one.number}" for one in version.parents)),
        ("comes from", _origin(meta.get("lineage"))),
        ("published", shown_time(version.time)),
        ("examples", "kept with their answers" if _part(snapshot, "examples") is not None else "none"),
        ("snapshot", snapshot.id),
    ]
    return [row for row in rows if row[1]]


def _shown_labels(signature: "Signature") -> str:
    from modelkeep.model.signature import named

    shown = []
    for name, info in named(signature.outputs).items():
        if info.labels:
            more = f", ... ({len(info.labels)})" if len(info.labels) > _LABELS else ""
            shown.append(f"{name}: {', '.join(info.labels[:_LABELS])}{more}")
    return "; ".join(shown)


def _layers(snapshot: "Snapshot") -> list[tuple[str, str, str, str]]:
    """The first two levels of the weights, with what they weigh."""
    from modelkeep.snapshot.dtypes import storage

    sums: dict[str, list[int]] = {}
    for path, spec in snapshot.tensors.items():
        part, _, rest = path.partition("/")
        if part == "model":
            layer = rest.rpartition("/")[0] or rest
            found = sums.setdefault(layer, [0, 0, 0])
            nbytes = snapshot.grid(path).nbytes
            found[0] += 1
            found[1] += nbytes // storage(spec.dtype).itemsize
            found[2] += nbytes
    return [(name, str(count), f"{values:,}", shown_bytes(size)) for name, (count, values, size) in sums.items()]


def _origin(lineage: Any) -> str:
    if not isinstance(lineage, dict) or not lineage:
        return ""
    from modelkeep.model.lineage import shown

    origins = lineage.get("transferred")
    parts = [f"run:{lineage['run']}@{lineage.get('step')}"] if lineage.get("run") else []
    parts += [f"snapshot {str(lineage['snapshot'])[:8]}"] if lineage.get("snapshot") else []
    parts += [f"weights of {shown(one)}" for one in origins] if isinstance(origins, list) else []
    return ", ".join(parts)


def _part(snapshot: "Snapshot", name: str) -> Any:
    return snapshot.structure.get(name) if isinstance(snapshot.structure, dict) else None


def show_moves(keep: "Keep", ref: "Ref", *, as_json: bool, quiet: bool) -> None:
    """``history MODEL@ALIAS``: where an alias has pointed, newest first."""
    from modelkeep.errors import NotFound

    damages: list[str] = []
    record = keep.model(ref.name)
    moves = record.history(ref.rev, on_damage=lambda _, error: damages.append(str(error)))
    if not moves and not damages:
        there = ", ".join(record.alias_names()) or "none"
        raise NotFound(f"model {record.name} has no alias {ref.rev}; it has {there}")
    if as_json:
        print_json({"keep": keep.url, "model": record.name, "alias": ref.rev, "moves": [asdict(one) for one in moves]})
    elif quiet:
        for one in moves:
            print(f"model:{record.name}@{one.version}" if one.version else "nowhere")
    else:
        rows = [
            (shown_time(one.time), f"model:{record.name}@{one.version}" if one.version else "nowhere", one.reason)
            for one in moves
        ]
        print_table(f"{record.name}@{ref.rev}", ("moved", "to", "why"), rows)
    tell_damage(damages)


def _pointing(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{name} @{number}" for name, number in sorted(aliases.items()))
