"""Every error that modelkeep raises, grouped by what a handler would do about it.

::

    ModelkeepError
    ├── UsageError           fix the call                                          exit 2
    │   ├── InvalidName      a run, key or path with characters that are refused
    │   ├── InvalidRef       a REF that does not parse
    │   ├── UnsupportedState a leaf that cannot be kept bit for bit
    │   ├── ParamsChanged    a run continued with other parameters
    │   └── StateMismatch    a state that does not fit the model that it is put into
    ├── NotFound             name something that is there                          exit 3
    ├── Damaged              restore the bytes; nothing wrong was loaded           exit 4
    ├── UnknownFormat        not a keep, or one of a newer version                 exit 5
    ├── Conflict             somebody else was first: wait, or take another name   exit 6
    │   ├── AlreadyExists    a key that is there already
    │   ├── RunLocked        another process writes this run
    │   └── Fenced           a newer attempt of this run has taken over
    ├── StorageError         mend the storage (space, permission, device)          exit 7
    ├── NotExact             a resume that could not be bit for bit                exit 8
    ├── LimitExceeded        raise the budget, if the source is trusted            exit 9
    └── Unsafe               a file that would run code, or open what it names     exit 10

``kind`` is stable and append-only: scripts may match on it. ``exit_code`` is what the command returns.
"""

import re
from typing import ClassVar


class ModelkeepError(Exception):
    """The root: catch this to catch everything that modelkeep raises on purpose."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class UsageError(ModelkeepError):
    """The call asks for something that cannot be done; change the call."""

    kind = "usage"
    exit_code = 2


class InvalidName(UsageError):
    """A run, key or path holds characters that are refused."""

    kind = "invalid-name"


class InvalidRef(UsageError):
    """A REF does not follow ``KIND:NAME@REV``."""

    kind = "invalid-ref"


class UnsupportedState(UsageError):
    """A leaf of a state cannot be kept bit for bit."""

    kind = "unsupported-state"


class ParamsChanged(UsageError):
    """A run was started again with parameters other than its own."""

    kind = "params-changed"


class StateMismatch(UsageError):
    """A stored state does not fit the object that it should be put into."""

    kind = "state-mismatch"


class NotFound(ModelkeepError):
    """The keep, run, snapshot or path that was named is not there."""

    kind = "not-found"
    exit_code = 3


class Damaged(ModelkeepError):
    """Stored bytes are not the bytes that were written. ``key`` names the object."""

    kind = "damaged"
    exit_code = 4

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class UnknownFormat(ModelkeepError):
    """The place is not a keep, or its format is newer than this version reads."""

    kind = "unknown-format"
    exit_code = 5


class Conflict(ModelkeepError):
    """Somebody else was first."""

    kind = "conflict"
    exit_code = 6


class AlreadyExists(Conflict):
    """A key that should have been created is there already."""

    kind = "already-exists"


class RunLocked(Conflict):
    """Another live process writes this run."""

    kind = "run-locked"


class Fenced(Conflict):
    """A newer attempt of this run has taken over; this one may not write any more."""

    kind = "fenced"


class StorageError(ModelkeepError):
    """The storage refused: no space, no permission, a device error."""

    kind = "storage"
    exit_code = 7


class NotExact(ModelkeepError):
    """The training could not be resumed bit for bit, and ``exact=False`` was not given."""

    kind = "not-exact"
    exit_code = 8


class LimitExceeded(ModelkeepError):
    """A stored object asks for more than the budget allows; nothing was allocated."""

    kind = "limit-exceeded"
    exit_code = 9


class Unsafe(ModelkeepError):
    """A file would run code, or open a path or an address that it names; nothing of it was run, built or opened."""

    kind = "unsafe"
    exit_code = 10


def told(error: Exception) -> str:
    r"""An error of a framework as ours tell it: its type and message, without colours, the middle left out if long.

    >>> told(ValueError("\x1b[1mInvalid dtype: object\x1b[0m"))
    'ValueError: Invalid dtype: object'
    """
    text = _COLOURS.sub("", str(error)).strip()
    return f"{type(error).__name__}: {text if len(text) < 600 else f'{text[:200]} ... {text[-300:]}'}"


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
