"""Exit codes: which there are, what they mean, and how an error becomes one."""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec, TextIO

import typer

from modelkeep.errors import Damaged, ModelkeepError, StorageError

CLOSED_PIPE = 141
"""What a shell reports of a program that SIGPIPE ended."""

_MEANINGS = {
    0: "done",
    1: "a fault of modelkeep itself",
    2: "the command was called wrongly",
    3: "the keep, run, model, snapshot or file is not there",
    4: "stored bytes are damaged",
    5: "not a keep, nor a known format, or one of a newer version",
    6: "somebody else was first, or holds the run",
    7: "the storage refused",
    8: "not bit for bit",
    9: "a stored object is larger than allowed",
    10: "a file would run code, or open what it names",
    130: "ended by Ctrl-C",
}

P = ParamSpec("P")


def exit_codes(*codes: int) -> str:
    """The last lines of a command's help; 0, 2 and 130 are of all commands.

    >>> exit_codes()
    'Exit codes: 0 done; 2 the command was called wrongly; 130 ended by Ctrl-C.'
    """
    listed = sorted({0, 2, 130, *codes})
    return "Exit codes: " + "; ".join(f"{code} {_MEANINGS[code]}" for code in listed) + "."


def with_exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command end with the documented code: errors as one line on stderr, a closed pipe in silence."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        warnings.showwarning = _show_warning
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except ModelkeepError as error:
            _say(f"modelkeep: {printable(str(error))}")
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            _drop_output()
            raise typer.Exit(CLOSED_PIPE) from None

    return run


@contextmanager
def watched_output() -> Iterator[None]:
    """End the process with a code and one line when the output cannot be written, be it help; none is fine too."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `modelkeep verify >&-` wants the code alone
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open until the end
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(CLOSED_PIPE) from None
    except OSError as error:
        if error.filename is not None:  # of a file, and not of the output
            raise
        _drop_output()
        _say(f"modelkeep: could not write the output: {str(error.strerror).lower()}; send it elsewhere")
        raise SystemExit(StorageError.exit_code) from None


def tell_damage(damages: Iterable[str]) -> None:
    """End a command that has shown what can be read, when there is damage.

    Raises:
        Damaged: each damage, on a line of its own.
    """
    told = list(damages)
    if told:
        raise Damaged("\n".join(told))


def _drop_output() -> None:
    """What is still in the buffer would raise once more when Python flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    """Print for a person; where nobody can listen the exit code has to do."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def printable(text: str) -> str:
    r"""Text of somebody else's keep, with control characters spelled out: they could rewrite the terminal.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _show_warning(
    message: Warning | str,
    category: type[Warning],  # noqa: ARG001
    filename: str,  # noqa: ARG001
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _say(f"modelkeep: warning: {printable(str(message))}")
