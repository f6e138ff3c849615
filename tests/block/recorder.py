"""A FUSE file system with one file, the backing file of a loop device, that logs what happens to it.

Run as a program: ``python -m tests.block.recorder FOLDER IMAGE LOG``. A mark is an extended attribute of the folder:
the call returns when it stands in the log, so its order with the writes is exact. One thread, for the same reason.
"""

import errno
import os
import stat
import sys
from typing import Any

import mfusepy

from .log import MARK, NAME, Flush, Mark, Write, pack


class RecordedDisk(mfusepy.Operations):
    """Serves the image, and writes down each write before it is made."""

    use_ns = True

    def __init__(self, image: str, log: str) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path == f"/{NAME}":
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self._image).st_size}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", NAME]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._append(Write(offset, data))
        return os.pwrite(self._image, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._append(Flush())
        return 0

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        if name != MARK:
            raise mfusepy.FuseOSError(errno.EOPNOTSUPP)
        self._append(Mark(value.decode()))
        return 0

    def _append(self, event: Write | Flush | Mark) -> None:
        record = memoryview(pack(event))
        while record:
            record = record[os.write(self._log, record) :]


if __name__ == "__main__":
    folder, image, log = sys.argv[1:]
    mfusepy.FUSE(RecordedDisk(image, log), folder, foreground=True, nothreads=True)
