"""What a transfer did with each weight of the model and each tensor of the source, as a value and as a table."""

import html
from collections.abc import Iterator
from dataclasses import dataclass

from modelkeep.errors import StateMismatch
from modelkeep.values import Json

KINDS = ("loaded", "adapted", "mismatched", "missing", "refused", "skipped", "unused")
"""What can become of a weight, in the order of the table; ``unused`` is about tensors of the source."""

_LINES = 20
_COLUMNS = ("", "model", "wanted", "source", "found", "")


@dataclass(frozen=True, slots=True)
class Entry:
    """One weight. ``path`` is the model's name for it, ``sources`` are the names in the source that it comes from.

    ``wanted`` and ``found`` are dtype and shape on both sides, ``note`` says what was done, or why it was not.
    """

    path: str
    sources: tuple[str, ...] = ()
    wanted: str = ""
    found: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What went where. Each weight of the model stands in exactly one of the first six lists.

    Seed generators are no weights: they are neither transferred nor listed.

    >>> report = TransferReport(loaded=(Entry("dense/kernel", ("dense/kernel",), "float32 [2, 3]", "float32 [2, 3]"),))
    >>> print(report)
    1 loaded
            model         wanted          source        found
    loaded  dense/kernel  float32 [2, 3]  dense/kernel  float32 [2, 3]
    """

    loaded: tuple[Entry, ...] = ()
    """Bit for bit what the source holds."""
    adapted: tuple[Entry, ...] = ()
    """Loaded in another layout, dtype or size; the note says which."""
    mismatched: tuple[Entry, ...] = ()
    """Found, but of another shape or kind; not loaded."""
    missing: tuple[Entry, ...] = ()
    """In the model, and nothing in the source is certainly meant for it; not loaded."""
    refused: tuple[Entry, ...] = ()
    """Found, but with NaN or infinite values; not loaded."""
    skipped: tuple[Entry, ...] = ()
    """Left out because ``only`` or ``skip`` says so."""
    unused: tuple[Entry, ...] = ()
    """In the source, and nowhere in the model."""
    frozen: tuple[str, ...] = ()
    """Layers that do not train any more; what they contain is not listed again."""

    def raise_for_missing(self) -> None:
        """Raise if something that was expected was not loaded.

        Raises:
            StateMismatch: some weight is mismatched, missing or refused; up to 20 are listed.

        >>> entry = Entry("head/bias", (), "float32 [3]", "", "not in the source")
        >>> TransferReport(missing=(entry,)).raise_for_missing()
        Traceback (most recent call last):
        modelkeep.errors.StateMismatch: 1 weight of the model was not loaded; leave it out with skip=["head/**"], name \
its source with rename={"source": "model"}, or pass partial=True:
          head/bias: wanted float32 [3], not in the source
        """
        failed = [*self.mismatched, *self.refused, *self.missing]
        if not failed:
            return
        lines = [f"\n  {_failure(entry)}" for entry in failed[:_LINES]]
        if len(failed) > _LINES:
            lines.append(f"\n  and {len(failed) - _LINES} more")
        layer = failed[0].path.rpartition("/")[0]
        pattern = _plain(f"{layer}/**" if layer else failed[0].path)
        was, them, their = ("was", "it", "its") if len(failed) == 1 else ("were", "them", "their")
        weights = "weight" if len(failed) == 1 else "weights"
        raise StateMismatch(
            f"{len(failed)} {weights} of the model {was} not loaded; leave {them} out with "
            f'skip=["{pattern}"], name {their} source with rename={{"source": "model"}}, or pass partial=True:'
            f"{''.join(lines)}"
        )

    def to_json(self) -> dict[str, Json]:
        """All of it as JSON, for a lineage.

        >>> TransferReport(unused=(Entry("", ("head.bias",), "", "float32 [3]"),)).to_json()["unused"]
        [{'path': '', 'sources': ['head.bias'], 'wanted': '', 'found': 'float32 [3]', 'note': ''}]
        """
        found: dict[str, Json] = {kind: [_entry_json(entry) for entry in getattr(self, kind)] for kind in KINDS}
        return {**found, "frozen": list(self.frozen)}

    def __str__(self) -> str:
        rows = [list(_COLUMNS), *self._rows(_LINES)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._summary(), *(lines if len(rows) > 1 else [])])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows(None)
        )
        return f"<p>{html.escape(self._summary())}</p><table><tr>{head}</tr>{body}</table>"

    def _summary(self) -> str:
        counts = [f"{len(getattr(self, kind))} {kind}" for kind in KINDS if getattr(self, kind)]
        if self.frozen:
            counts.append(f"{len(self.frozen)} layer{'' if len(self.frozen) == 1 else 's'} frozen")
        return ", ".join(counts) or "nothing to transfer"

    def _rows(self, most: int | None) -> Iterator[list[str]]:
        """Rows of plain text; of what was loaded as it is, at most ``most``, since that is the least news."""
        for kind in KINDS:
            entries = getattr(self, kind)
            shown = entries[:most] if kind == "loaded" and most is not None else entries
            for entry in shown:
                cells = [kind, entry.path, entry.wanted, ", ".join(entry.sources), entry.found, entry.note]
                yield [_plain(cell) for cell in cells]
            if len(shown) < len(entries):
                yield [kind, f"and {len(entries) - len(shown)} more", "", "", "", ""]
        for path in self.frozen:
            yield ["frozen", _plain(path), "", "", "", ""]


def _entry_json(entry: Entry) -> Json:
    return {
        "path": entry.path,
        "sources": list(entry.sources),
        "wanted": entry.wanted,
        "found": entry.found,
        "note": entry.note,
    }


def _failure(entry: Entry) -> str:
    found = f"found {entry.found} in {', '.join(entry.sources)}" if entry.sources else ""
    return _plain(f"{entry.path}: " + ", ".join(part for part in (f"wanted {entry.wanted}", found, entry.note) if part))


def _plain(text: str) -> str:
    """Names come from files of others: nothing in them may move a terminal's cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
