"""What a scan says: findings, and the report of one file or folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["unsafe", "suspicious", "damaged", "limit"]
"""``unsafe``: it would run code, or open or write what it names. ``suspicious``: it is not what it says, or it hides
something. ``damaged``: it cannot be read. ``limit``: it asks for more than the budget, and was not looked at
in full."""

SEVERITIES: tuple[Severity, ...] = ("unsafe", "suspicious", "damaged", "limit")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would happen if the file were loaded by its own library.

    >>> Finding("a.pkl", "imports os.system", "unsafe", "it runs a command", "do not load it").where
    'a.pkl'
    """

    where: str
    """The file, and behind ``!`` the part within it."""
    what: str
    severity: Severity
    why: str
    way_out: str


@dataclass(frozen=True, slots=True)
class ScanReport:
    """All findings of one file or folder, the gravest first.

    >>> ScanReport("a.npy", "NumPy array", (), files=1).verdict
    'clean'
    """

    path: str
    kind: str
    """What its bytes say that it is, in words."""
    findings: tuple[Finding, ...]
    files: int
    """Files and members of archives that were looked at."""

    @property
    def verdict(self) -> Literal["clean", "unsafe", "suspicious", "damaged", "limit"]:
        """The gravest severity that was found, or ``clean``."""
        return next((name for name in SEVERITIES if any(one.severity == name for one in self.findings)), "clean")


def gravest_first(findings: list[Finding]) -> Iterator[Finding]:
    """Yield each finding once, by severity, else in the order in which they were found."""
    for name in SEVERITIES:
        yield from dict.fromkeys(one for one in findings if one.severity == name)


def damaged(where: str, what: str) -> Finding:
    """A part that cannot be read."""
    return Finding(where, what, "damaged", "what cannot be read cannot be judged, nor loaded", "get the file again")


def beyond(where: str, what: str, way_out: str = "raise the budget, if you trust its source") -> Finding:
    """A part that asks for more than the budget has."""
    return Finding(where, what, "limit", "reading it may use up the memory, or take for ever", way_out)
