"""HDF5's own library, in a process of its own: a file that makes it crash, hang or grow is an error here and no more.

The child is given no file: it asks for the bytes that it wants to see, and answers in JSON. What it asks the library
is a function of whoever starts it, in a module that may import h5py.
"""

import importlib
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypeAlias

from modelkeep import errors
from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UsageError

SECONDS = 120
"""The longest that the library may take for the structure of a file."""

Read: TypeAlias = Callable[[int, int], bytes]
"""Gives so many bytes from an offset on, which lie within the file; raises Damaged where it has become shorter."""

_MEMORY = 2 << 30  # bytes of address space beside what the child has once all is imported
_ASK = struct.Struct("<QQ")
_DONE = (1 << 64) - 1
_MOST = 1 << 30


def ask(function: str, name: str, size: int, read: Read, budget: Budget) -> dict[str, Any]:
    """What ``function`` says of an HDF5 file of ``size`` bytes, in a child.

    Args:
        function: ``"module:name"`` of a function of ours that takes an `Asked` and the budget, and returns JSON.
        name: what messages call the file.

    Raises:
        Damaged: the library has crashed over it, or come to no end.
        LimitExceeded: the library wanted more memory than a structure needs.
        UsageError: h5py is not installed, or no child can be started.
    """
    line = [sys.executable, "-c", f"from modelkeep.hdf5_child import main; main({function!r})"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise UsageError(f"{name}: HDF5 is read in a process of its own, which did not start: {error}") from None
    assert child.stdin is not None
    assert child.stdout is not None
    timer = threading.Timer(SECONDS, child.kill)
    timer.start()
    try:
        _write(child.stdin, json.dumps({"name": name, "size": size, "budget": asdict(budget)}).encode())
        answer = _serve(size, read, child.stdin, child.stdout)
    finally:
        timer.cancel()
        child.kill()
        child.stdin.close()
        child.stdout.close()
        code = child.wait()
    if answer is None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise Damaged(f"{name}: HDF5 cannot read it: its library {how}", name)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer


def _serve(size: int, read: Read, to: IO[bytes], of: IO[bytes]) -> dict[str, Any] | None:
    """Give the child the bytes that it asks for; return its answer, or None where it is gone."""
    try:
        while len(head := of.read(_ASK.size)) == _ASK.size:
            offset, count = _ASK.unpack(head)
            if offset == _DONE:
                if count > _MOST:
                    return None
                text = of.read(count)
                return json.loads(text) if len(text) == count else None
            if offset + count > size:
                return None
            to.write(read(offset, count))
            to.flush()
    except BrokenPipeError:
        return None
    return None


def _write(to: IO[bytes], text: bytes) -> None:
    to.write(_ASK.pack(_DONE, len(text)) + text)
    to.flush()


class Asked(io.RawIOBase):
    """The file, in the child: each read is asked of the parent."""

    def __init__(self, name: str, size: int, to: IO[bytes], of: IO[bytes]) -> None:
        super().__init__()
        self.name, self.size, self._to, self._of, self._at = name, size, to, of, 0

    def read_into(self, offset: int, room: memoryview) -> None:
        """Fill ``room`` with the bytes from ``offset`` on. Raises Damaged where there are not that many."""
        if offset < 0 or offset + len(room) > self.size:
            raise Damaged(f"{self.name}: bytes past its end are wanted; it may have been cut off", self.name)
        self._to.write(_ASK.pack(offset, len(room)))
        self._to.flush()
        data = self._of.read(len(room))
        if len(data) < len(room):
            os._exit(1)  # the parent is gone
        room[:] = data

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset, which may lie past the end."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def tell(self) -> int:
        """The offset."""
        return self._at

    def readinto(self, room: object) -> int:
        """Fill as much of ``room`` as there are bytes."""
        view = memoryview(room).cast("B")  # type: ignore[arg-type] # any buffer that can be written
        count = max(min(len(view), self.size - self._at), 0)
        if count:
            self.read_into(self._at, view[:count])
        self._at += count
        return count


def main(function: str) -> None:
    """Be the child: read the request, answer it with ``function``, and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear
    of, to = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _, count = _ASK.unpack(of.read(_ASK.size))
    request = json.loads(of.read(count))
    try:
        module, _, name = function.partition(":")
        answer = getattr(importlib.import_module(module), name)
        _confine()
        found = answer(Asked(request["name"], request["size"], to, of), Budget(**request["budget"]))
    except ModelkeepError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        limit = f"{request['name']}: HDF5 wanted more memory than the structure of a file needs"
        found = {"error": LimitExceeded.__name__, "message": limit}
    _write(to, json.dumps(found).encode())


def _confine() -> None:
    """No more memory, no more time, and no further file."""
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
