"""Values that every layer shares: JSON, digests, names and the REF grammar. No I/O."""

import re
import unicodedata
from dataclasses import dataclass
from typing import NewType, TypeAlias

from modelkeep.errors import InvalidName, InvalidRef

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
"""What a JSON document can hold; floats are finite."""

Digest = NewType("Digest", str)
"""A BLAKE3 hash of some bytes, 64 lower-case hexadecimal digits."""

SnapshotId = NewType("SnapshotId", str)
"""The digest of the logical part of a snapshot's record: 64 lower-case hexadecimal digits."""

NAME_LENGTH = 128

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_ALLOWED = re.compile(r"[A-Za-z0-9._-]")
# Windows opens a device, not a file, for these stems whatever the extension; a keep must survive being copied there.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{8,64}")
_METRIC = re.compile(r"[^\s#@:\x00-\x1f\x7f]{1,128}")
_NUMBER = re.compile(r"[0-9]{1,18}")

KINDS = ("run", "model", "snapshot")


def check_name(name: str, what: str = "run") -> str:
    """Return ``name`` when it can name a run, a model or an alias on every file system and object store.

    Letters, digits, ``_``, ``-`` and ``.``, at most 128, beginning with a letter, a digit or ``_``.

    Raises:
        InvalidName: with the character that is refused and a name that would be taken.

    >>> check_name("cnn-2024.1")
    'cnn-2024.1'
    >>> check_name("my run")
    Traceback (most recent call last):
        ...
    modelkeep.errors.InvalidName: run name 'my run' has ' ' at position 2; use letters, digits, '.', '_' and '-', \
such as 'my-run'
    """
    fault = _name_fault(name)
    if fault:
        raise InvalidName(
            f"{what} name {name!r:.200} {fault}; use letters, digits, '.', '_' and '-', such as {_cleaned(name)!r}"
        )
    return name


def _name_fault(name: object) -> str:
    """What is wrong with ``name``, or an empty string."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not str"
    if not name:
        return "is empty"
    for position, char in enumerate(name):
        if not _ALLOWED.fullmatch(char):
            return f"has {char!r} at position {position}"
    if len(name) > NAME_LENGTH:
        return f"has {len(name)} characters, more than {NAME_LENGTH}"
    if not _NAME.fullmatch(name):
        return f"begins with {name[0]!r}"
    if name.endswith("."):
        return "ends with '.'"
    if _RESERVED.fullmatch(name):
        return "is a device name on Windows"
    return ""


def _cleaned(name: object) -> str:
    """A valid name that resembles ``name``."""
    plain = unicodedata.normalize("NFKD", str(name)).encode("ascii", "ignore").decode()
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[:NAME_LENGTH].rstrip("-.")
    if not text:
        return "name"
    return f"_{text[: NAME_LENGTH - 1]}".rstrip("-.") if _RESERVED.fullmatch(text) else text


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of one snapshot: ``KIND:NAME@REV``, optionally with ``KEEP#`` in front.

    ``kind`` is ``"run"``, ``"model"``, ``"snapshot"`` or, where the text left it out, ``""`` (the keep then finds
    which it is). ``rev`` is ``"last"`` when it was left out, and ``""`` for snapshots.

    >>> Ref.parse("run:cnn@best:val_loss")
    Ref(kind='run', name='cnn', rev='best:val_loss', keep=None)
    >>> str(Ref.parse("s3://bucket/keep#model:digits@champion"))
    's3://bucket/keep#model:digits@champion'
    >>> Ref.parse("cnn").rev
    'last'
    """

    kind: str
    name: str
    rev: str = "last"
    keep: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """Read a REF.

        Forms: ``run:cnn@1200`` (a step), ``run:cnn@last``, ``run:cnn@best:val_loss`` (with ``:min`` or ``:max`` behind
        where the name does not tell), ``run:cnn@epoch:3``, ``run:cnn``, ``model:digits@3``, ``model:digits@champion``,
        ``snapshot:ID``, or a bare snapshot id (or a prefix of it, of at least 8 digits). A run whose name looks like an
        id is written ``run:NAME``.

        Raises:
            InvalidRef: with the place of the fault and the forms that are understood.
        """
        if not isinstance(text, str):
            raise InvalidRef(f"a REF is text such as 'run:cnn@last', not {type(text).__name__}")
        keep, separator, rest = text.rpartition("#")
        if separator and not keep:
            raise InvalidRef(f"ref {text!r:.300} has nothing before '#'; write KEEP#REF, such as './keep#run:cnn@last'")
        where = keep if separator else None
        if _HEX.fullmatch(rest):
            return cls("snapshot", rest, "", where)
        head, at, rev = rest.partition("@")
        kind, colon, name = head.rpartition(":")
        if colon and kind not in KINDS:
            raise InvalidRef(f"ref {text!r:.300} has the kind {kind!r:.60}; the kinds are run, model and snapshot")
        if kind == "snapshot":
            return cls(kind, _snapshot_name(text, name, at), "", where)
        if at and not rev:
            raise InvalidRef(f"ref {text!r:.300} ends after '@'; name a revision, such as {head}@last")
        return cls(kind, _checked_name(text, name), _checked_rev(text, kind, rev) if at else "last", where)

    def __str__(self) -> str:
        keep = f"{self.keep}#" if self.keep is not None else ""
        if self.kind == "snapshot":
            return f"{keep}snapshot:{self.name}"
        kind = f"{self.kind}:" if self.kind else ""
        return f"{keep}{kind}{self.name}@{self.rev}"


def _checked_name(text: str, name: str) -> str:
    try:
        return check_name(name, "ref")
    except InvalidName as error:
        raise InvalidRef(f"ref {text!r:.300} does not follow KIND:NAME@REV: {error}") from None


def _snapshot_name(text: str, name: str, at: str) -> str:
    if at or not _HEX.fullmatch(name):
        raise InvalidRef(f"ref {text!r:.300} should be snapshot:ID, with 8 to 64 lower-case hexadecimal digits")
    return name


def _checked_rev(text: str, kind: str, rev: str) -> str:
    """``rev`` when it is one that ``kind`` has; with no kind, one that either has."""
    word, colon, argument = rev.partition(":")
    if not colon:
        plain = kind != "run" and rev != "best" and not _name_fault(rev)
        known = plain or rev == "last" or bool(_NUMBER.fullmatch(rev))
    elif kind == "model":
        known = False
    else:
        argument = argument.removesuffix(":min").removesuffix(":max") if word == "best" else argument
        form = {"best": _METRIC, "epoch": _NUMBER}.get(word)
        known = form is not None and bool(form.fullmatch(argument))
    if known:
        return rev
    forms = {
        "run": "a step, last, best:METRIC or epoch:N",
        "model": "a version or an alias",
        "": "a step, last, best:METRIC, epoch:N, a version or an alias",
    }[kind]
    raise InvalidRef(f"ref {text!r:.300} has the revision {rev!r:.100}; {kind or 'a ref'} takes {forms}")
