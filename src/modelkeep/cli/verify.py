"""``modelkeep verify``: read everything, and name what is damaged."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli.exits import exit_codes, printable
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_models, open_keep
from modelkeep.cli.output import print_json, print_table, shown_bytes

if TYPE_CHECKING:
    from modelkeep.keep import Keep
    from modelkeep.store import Damage, VerifyReport

HELP = (
    "Read every byte of the keep and name each damaged tensor. With --export, run the exports of a version again on "
    "its examples. Nothing is changed."
)
EPILOG = exit_codes(3, 4, 5, 7, 8)


def command(
    *,
    export: Annotated[
        str | None,
        typer.Option("--export", metavar="MODEL", autocompletion=complete_models, help="Such as digits@champion."),
    ] = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Verify a keep."""
    from modelkeep.errors import Damaged, UnknownFormat

    if export is not None:
        _verify_exports(export, keep, as_json=as_json, quiet=quiet)
        return
    opened = open_keep(keep)
    report = opened.verify() if quiet or as_json or not sys.stderr.isatty() else _with_progress(opened)
    if as_json:
        print_json(_document(opened, report))
    elif not quiet:
        _print(opened, report)
    if not report.ok:
        raise typer.Exit((Damaged if report.damages else UnknownFormat).exit_code)


def _verify_exports(ref: str, keep: str | None, *, as_json: bool, quiet: bool) -> None:
    from modelkeep.cli.models import print_exports
    from modelkeep.errors import NotFound
    from modelkeep.values import Ref

    parsed = Ref.parse(ref)
    opened = open_keep(parsed.keep or keep)
    found = opened.verify_exports(parsed)
    if not found:
        raise NotFound(f"{parsed} has no exports; modelkeep export {parsed} --to litert makes one")
    if as_json:
        print_json({"keep": opened.url, "model": str(parsed), "exports": [proof for _, proof in found]})
    elif not quiet:
        print_exports(f"{parsed}: proven again", found)


def _with_progress(keep: "Keep") -> "VerifyReport":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=None)
        advance: Callable[[int, int], None] = lambda done, total: progress.update(task, completed=done, total=total)  # noqa: E731
        return keep.verify(advance)


def _document(keep: "Keep", report: "VerifyReport") -> dict[str, object]:
    return {
        "keep": keep.url,
        "ok": report.ok,
        "objects": report.objects,
        "nbytes": report.nbytes,
        "damages": [asdict(one) for one in report.damages],
        "newer": [asdict(one) for one in report.newer],
        "foreign": list(report.foreign),
    }


def _print(keep: "Keep", report: "VerifyReport") -> None:
    for key in report.foreign:
        print(f"not part of a keep: {printable(key)}")
    read = f"{report.objects} objects, {shown_bytes(report.nbytes)}"
    if report.ok:
        print(f"{keep.url}: {read}: every byte is as it was written")
        return
    if report.damages:
        rows = [(one.key, ", ".join(one.tensors), _part_of(one), one.what) for one in report.damages]
        print_table(f"damaged in {keep.url}", ("object", "tensors", "part of", "what"), rows)
    if report.newer:
        newer = [(one.key, _part_of(one), one.what) for one in report.newer]
        print_table(f"of a newer format in {keep.url}", ("object", "part of", "what"), newer)
    count = len(report.damages)
    found = [f"{count} damage{'' if count == 1 else 's'}"] if count or not report.newer else []
    if report.newer:
        found.append(f"{len(report.newer)} of a newer format, which only a newer modelkeep can verify")
    print(f"{keep.url}: {read}: {', '.join(found)}")


def _part_of(found: "Damage") -> str:
    return ", ".join(found.refs or (name[:8] for name in found.snapshots))
