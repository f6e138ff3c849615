"""A FUSE file system that passes everything through to a folder, but for calls that are planned to fail.

Run as ``python -m tests.faults.server FOLDER BEHIND``. A line on its input is a plan, which begins a new count of
calls; the answer is what was counted and failed since the last one. When the input ends the file system is taken away.
"""

import json
import os
import subprocess
import sys
import threading
from typing import Any

import mfusepy

from .plan import Faults, plan_from_json

_DIRECT = getattr(os, "O_DIRECT", 0)
_FIELDS = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
_TIMES = ("st_atime", "st_mtime", "st_ctime")


class PassThrough(mfusepy.Operations):
    """The calls of `mfusepy`, each asked for before it is passed on."""

    use_ns = True

    def __init__(self, behind: str) -> None:
        self._behind = behind
        self._guard = threading.Lock()
        self._faults = Faults()

    def replan(self, line: str) -> str:
        """Begin a new plan; what became of the last one."""
        with self._guard:
            old, self._faults = self._faults, Faults(plan_from_json(line))
        return json.dumps({"counts": old.counts, "failed": old.failed})

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        self._ask("look")
        found = os.fstat(fh) if fh else os.lstat(self._at(path))
        attributes: dict[str, Any] = {name: getattr(found, name) for name in _FIELDS}
        return attributes | {name: getattr(found, f"{name}_ns") for name in _TIMES}

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    def create(self, path: str, mode: int, flags: int) -> int:
        self._ask("create")
        return os.open(self._at(path), flags & ~_DIRECT, mode)

    def open(self, path: str, flags: int) -> int:
        self._ask("open" if flags & os.O_ACCMODE == os.O_RDONLY else "open to write")
        return os.open(self._at(path), flags & ~_DIRECT)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._ask("read")
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._ask("write")
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._ask("truncate")
        os.truncate(fh or self._at(path), length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        self._ask("allocate")
        os.posix_fallocate(fh, offset, size)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._ask("sync")
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._ask("sync folder")
        return 0

    def flush(self, path: str, fh: int) -> int:
        self._ask("close")
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def opendir(self, path: str) -> int:
        self._ask("list")
        return 0

    def readdir(self, path: str, fh: int) -> list[Any]:
        with os.scandir(self._at(path)) as entries:
            return [".", "..", *((one.name, _kind(one), 0) for one in entries)]

    def link(self, target: str, source: str) -> int:
        self._ask("link")
        os.link(self._at(source), self._at(target), follow_symlinks=False)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._ask("rename")
        os.rename(self._at(old), self._at(new))
        return 0

    def unlink(self, path: str) -> int:
        self._ask("remove")
        os.unlink(self._at(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._ask("make folder")
        os.mkdir(self._at(path), mode)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._ask("protect")
        os.chmod(self._at(path), mode)
        return 0

    def _at(self, path: str) -> str:
        return self._behind + path

    def _ask(self, kind: str) -> None:
        with self._guard:
            code = self._faults.code(kind)
        if code:
            raise mfusepy.FuseOSError(code)


def _kind(entry: "os.DirEntry[str]") -> dict[str, int]:
    """What a listing tells of an entry; one without a number would be passed over."""
    found = entry.stat(follow_symlinks=False)
    return {"st_mode": found.st_mode, "st_ino": found.st_ino}


def listen(passing: PassThrough, folder: str) -> None:
    """Answer plans until nobody asks any more: who asked may have been killed, and a dead mount would stay."""
    for line in sys.stdin:
        print(passing.replan(line), flush=True)
    subprocess.run(["umount", "--lazy", folder], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    folder, behind = sys.argv[1:]
    passing = PassThrough(behind)
    threading.Thread(target=listen, args=(passing, folder), daemon=True).start()
    mfusepy.FUSE(
        passing,
        folder,
        foreground=True,
        nothreads=True,
        hard_remove=True,
        use_ino=True,
        # Each call is to arrive, in the same number each time.
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )
