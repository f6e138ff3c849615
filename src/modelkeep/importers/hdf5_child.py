"""HDF5's own library, in a process of its own: a file that makes it crash, hang or grow is an error here and no more.

The child is given no file: it asks for the bytes that it wants to see, and answers with the structure as JSON.
"""

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from modelkeep import errors
from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, ModelkeepError, UsageError
from modelkeep.importers.source import Source, read_bytes

SECONDS = 120
"""The longest that the library may take for the structure of a file."""

PROGRAM = "from modelkeep.importers.hdf5_child import main; main()"
_MEMORY = 2 << 30  # bytes of address space beside what the child has once all is imported
_ASK = struct.Struct("<QQ")
_DONE = (1 << 64) - 1
_MOST = 1 << 30


def ask(source: Source, budget: Budget) -> dict[str, Any]:
    """The structure of an HDF5 file, as `modelkeep.importers.hdf5_library.structure` gives it.

    Raises:
        Damaged: the library has crashed over it, or come to no end.
        LimitExceeded: the library wanted more memory than a structure needs.
        UsageError: h5py is not installed, or no child can be started.
    """
    line = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise UsageError(f"{source.name}: HDF5 is read in a process of its own, which did not start: {error}") from None
    assert child.stdin is not None
    assert child.stdout is not None
    timer = threading.Timer(SECONDS, child.kill)
    timer.start()
    try:
        _write(child.stdin, json.dumps({"name": source.name, "size": source.size, "budget": asdict(budget)}).encode())
        answer = _serve(source, child.stdin, child.stdout)
    finally:
        timer.cancel()
        child.kill()
        child.stdin.close()
        child.stdout.close()
        code = child.wait()
    if answer is None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise Damaged(f"{source.name}: HDF5 cannot read it: its library {how}", source.name)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer


def _serve(source: Source, to: IO[bytes], of: IO[bytes]) -> dict[str, Any] | None:
    """Give the child the bytes that it asks for; return its answer, or None where it is gone."""
    try:
        while len(head := of.read(_ASK.size)) == _ASK.size:
            offset, count = _ASK.unpack(head)
            if offset == _DONE:
                if count > _MOST:
                    return None
                text = of.read(count)
                return json.loads(text) if len(text) == count else None
            to.write(read_bytes(source, offset, count))
            to.flush()
    except BrokenPipeError:
        return None
    return None


def _write(to: IO[bytes], text: bytes) -> None:
    to.write(_ASK.pack(_DONE, len(text)) + text)
    to.flush()


class _Asked:
    """The source, in the child: each read is asked of the parent."""

    def __init__(self, name: str, size: int, to: IO[bytes], of: IO[bytes]) -> None:
        self.name, self.size, self._to, self._of = name, size, to, of

    def read_into(self, offset: int, room: memoryview) -> None:
        """See `modelkeep.importers.source.Source`."""
        if offset < 0 or offset + len(room) > self.size:
            raise Damaged(f"{self.name}: bytes past its end are wanted; it may have been cut off", self.name)
        self._to.write(_ASK.pack(offset, len(room)))
        self._to.flush()
        data = self._of.read(len(room))
        if len(data) < len(room):
            os._exit(1)  # the parent is gone
        room[:] = data


def main() -> None:
    """Be the child: read the request, answer it, and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear
    of, to = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _, count = _ASK.unpack(of.read(_ASK.size))
    request = json.loads(of.read(count))
    try:
        from modelkeep.importers.hdf5_library import structure

        _confine()
        found = structure(_Asked(request["name"], request["size"], to, of), Budget(**request["budget"]))
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
