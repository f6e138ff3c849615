"""What a folder lies on: the file system, and whether it says by itself that it keeps less than it seems to."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")

_OVER_A_NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "virtiofs"]
)
_IN_MEMORY = frozenset(["tmpfs", "ramfs"])
_UNSAFE_OPTIONS = {
    "nobarrier": "does not flush the disk's own cache, so a power cut loses what fsync promised",
    "barrier=0": "does not flush the disk's own cache, so a power cut loses what fsync promised",
    "data=writeback": "may show old disk contents after a power cut; every load checks its bytes and says so",
}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the system's table of mounts."""

    point: str
    kind: str
    """Of the file system: ``ext4``, ``nfs4``, ``fuse.sshfs``."""
    options: tuple[str, ...]

    @property
    def is_remote(self) -> bool:
        """Whether it is, or may be, another machine's disk; what lies behind FUSE is not known."""
        return self.kind in _OVER_A_NETWORK or self.kind.startswith("fuse")

    @property
    def is_memory(self) -> bool:
        """Whether nothing of it survives a power cut."""
        return self.kind in _IN_MEMORY

    @property
    def dangers(self) -> tuple[str, ...]:
        """What its options say against it, a sentence each."""
        return tuple(f"{name} {_UNSAFE_OPTIONS[name]}" for name in self.options if name in _UNSAFE_OPTIONS)


def mount_of(folder: str | os.PathLike[str], table: str | None = None) -> Mount | None:
    r"""The mount that ``folder`` lies on; None where the system has no such table.

    ``table``: the text of Linux' ``/proc/self/mountinfo`` (proc(5)), by default that of this process.

    >>> mount_of("/data/keep", "29 1 8:1 / / rw - ext4 /dev/a rw\n30 29 0:5 / /data rw - nfs4 host:/x rw,soft").kind
    'nfs4'
    """
    if table is None:
        try:
            table = _TABLE.read_text()
        except OSError:
            return None
    path = os.path.realpath(folder)
    found = [mount for line in table.splitlines() if (mount := _parse(line)) and _is_below(path, mount.point)]
    return max(reversed(found), key=lambda mount: len(mount.point), default=None)  # the last one covers those before


def _parse(line: str) -> Mount | None:
    fields, _, rest = line.partition(" - ")
    left, right = fields.split(), rest.split()
    if len(left) < 6 or len(right) < 1:
        return None
    options = ",".join([left[5], *right[2:3]])
    return Mount(_unescaped(left[4]), right[0], tuple(dict.fromkeys(options.split(","))))


def _unescaped(text: str) -> str:
    """Blanks stand as octal numbers in the table."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _is_below(path: str, point: str) -> bool:
    return point in ("/", path) or path.startswith(f"{point}/")
