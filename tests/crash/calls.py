"""What each system call means for the watched folder: one small function for each, in a table by name."""

import re
from collections.abc import Mapping

from .operations import Change, Mode, Names, Resize, Sync, Write
from .recorder import Handler, Recorder, Unmodelled, fcntl_is_harmless
from .strace import UMASK, Call, descriptor_of, path_of, text_of


def _openat(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.open(call, given[1], given[2], given[3] if len(given) > 3 else "", given[0])


def _open(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.open(call, given[0], given[1], given[2] if len(given) > 2 else "", None)


def _creat(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.open(call, given[0], "O_WRONLY|O_CREAT|O_TRUNC", given[1], None)


def _openat2(recorder: Recorder, call: Call, given: list[str]) -> None:
    how = dict(part.split("=", 1) for part in given[2].strip("{}").split(", "))
    recorder.open(call, given[1], how["flags"], how.get("mode", ""), given[0])


def _write(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        recorder.write(call, held, text_of(given[1]), None)


def _pwrite(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        recorder.write(call, held, text_of(given[1]), int(given[3]))


def _writev(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        recorder.write(call, held, _gathered(given[1]), None)


def _pwritev(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        flags = given[4] if len(given) > 4 else "0"
        if flags not in ("0", "RWF_HIPRI", "RWF_NOWAIT"):  # RWF_DSYNC, RWF_APPEND, RWF_ATOMIC say more than we model
            raise Unmodelled(f"{call.name} with {flags}")
        offset = int(given[3])
        recorder.write(call, held, _gathered(given[1]), None if offset == -1 else offset)


def _gathered(vector: str) -> bytes:
    parts = re.findall(r'iov_base=("[^"]*"(?:\.\.\.)?)', vector)
    return b"".join(text_of(part) for part in parts)


def _lseek(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        held.position = call.result


def _ftruncate(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        recorder.resize(call, held, int(given[1]))


def _truncate(recorder: Recorder, call: Call, given: list[str]) -> None:
    place = recorder.place(call, given[0])
    if place is not None and place.inode is not None:
        recorder.do(call, Resize(place.inode, int(given[1])))


def _fallocate(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is None:
        return
    flags, start, length = set(given[1].split("|")) - {"0"}, int(given[2]), int(given[3])
    if flags == {"FALLOC_FL_KEEP_SIZE"}:
        return  # blocks set aside behind the end, which nobody can read
    if not flags:
        if start + length > recorder.size(held.inode):
            recorder.do(call, Resize(held.inode, start + length, at_least=True))
    elif flags == {"FALLOC_FL_KEEP_SIZE", "FALLOC_FL_PUNCH_HOLE"}:
        end = min(start + length, recorder.size(held.inode))
        if end > start:
            recorder.do(call, Write(held.inode, start, bytes(end - start)))
    else:
        raise Unmodelled(f"fallocate with {given[1]}")


def _fsync(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        recorder.do(call, Sync(held.inode, call.name == "fdatasync"))


def _sync(recorder: Recorder, call: Call, given: list[str]) -> None:
    if call.name == "sync" or recorder.held(call, given[0]) is not None:
        recorder.do(call, Sync(None))


def _close(recorder: Recorder, call: Call, given: list[str]) -> None:
    number = descriptor_of(given[0])
    assert number is not None
    recorder.close(call, number)


def _close_range(recorder: Recorder, call: Call, given: list[str]) -> None:
    if given[2] != "0":
        raise Unmodelled(f"close_range with {given[2]}")
    first, last = int(re.match(r"\d+", given[0])[0]), min(int(re.match(r"\d+", given[1])[0]), 4096)
    for number in range(first, last + 1):
        recorder.close(call, number)


def _dup(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.duplicate(call, given[0])


def _dup3(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.duplicate(call, given[0], until_exec="O_CLOEXEC" in given[2])


def _fcntl(recorder: Recorder, call: Call, given: list[str]) -> None:
    command = given[1]
    if command.startswith("F_DUPFD"):
        recorder.duplicate(call, given[0], until_exec=command == "F_DUPFD_CLOEXEC")
    elif command == "F_SETFL" and recorder.held(call, given[0]) is not None:
        held = recorder.held(call, given[0])
        assert held is not None
        held.appends = "O_APPEND" in given[2]
    elif command == "F_SETFD" or fcntl_is_harmless(command):
        return
    elif recorder.held(call, given[0]) is not None:
        raise Unmodelled(f"fcntl with {command}")


def _ioctl(recorder: Recorder, call: Call, given: list[str]) -> None:
    harmless = ("TCGETS", "FIOCLEX", "FIONCLEX", "FIONBIO", "FIONREAD", "FS_IOC_GETFLAGS", "FS_IOC_FIEMAP", "BLK")
    if not given[1].startswith(harmless) and recorder.held(call, given[0]) is not None:
        raise Unmodelled(f"ioctl with {given[1]}")


def _mmap(recorder: Recorder, call: Call, given: list[str]) -> None:
    if "MAP_SHARED" not in given[3] or descriptor_of(given[4]) is None or "MAP_ANONYMOUS" in given[3]:
        return
    held = recorder.held(call, given[4])
    if held is not None and (held.writable or "PROT_WRITE" in given[2]):
        raise Unmodelled("a file of the folder is mapped for writing: what is written so is not seen in a trace")


def _mkdir(recorder: Recorder, call: Call, given: list[str]) -> None:
    _make_folder(recorder, call, given[0], given[1], None)


def _mkdirat(recorder: Recorder, call: Call, given: list[str]) -> None:
    _make_folder(recorder, call, given[1], given[2], given[0])


def _make_folder(recorder: Recorder, call: Call, path: str, mode: str, folder: str | None) -> None:
    place = recorder.place(call, path, folder)
    if place is not None:
        inode = recorder.fresh()
        recorder.tree.folders[inode] = {}
        recorder.do(call, Names((Change(place.folder, place.name, inode),)))
        recorder.tree.modes[inode] = int(mode, 8) & ~UMASK


def _unlink(recorder: Recorder, call: Call, given: list[str]) -> None:
    _remove(recorder, call, given[0], None)


def _unlinkat(recorder: Recorder, call: Call, given: list[str]) -> None:
    _remove(recorder, call, given[1], given[0])


def _remove(recorder: Recorder, call: Call, path: str, folder: str | None) -> None:
    place = recorder.place(call, path, folder)
    if place is not None:
        recorder.do(call, Names((Change(place.folder, place.name, None, place.inode),)))


def _rename(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.rename(call, recorder.place(call, given[0]), recorder.place(call, given[1]))


def _renameat(recorder: Recorder, call: Call, given: list[str]) -> None:
    source, target = recorder.place(call, given[1], given[0]), recorder.place(call, given[3], given[2])
    if len(given) > 4 and given[4] not in ("0", "RENAME_NOREPLACE") and (source or target):
        raise Unmodelled(f"renameat2 with {given[4]}")
    recorder.rename(call, source, target)


def _link(recorder: Recorder, call: Call, given: list[str]) -> None:
    _make_link(recorder, call, (None, given[0]), (None, given[1]))


def _linkat(recorder: Recorder, call: Call, given: list[str]) -> None:
    _make_link(recorder, call, (given[0], given[1]), (given[2], given[3]))


def _make_link(recorder: Recorder, call: Call, source: tuple[str | None, str], target: tuple[str | None, str]) -> None:
    place = recorder.place(call, target[1], target[0])
    if place is None:
        return
    inode = _linked(recorder, call, *source)
    if inode is None:
        raise Unmodelled(f"linkat({call.text[:300]}): the replay does not know what was linked")
    recorder.do(call, Names((Change(place.folder, place.name, inode),)))


def _linked(recorder: Recorder, call: Call, folder: str | None, path: str) -> int | None:
    """What gets a second name; a file that has none yet is told by its descriptor."""
    name = text_of(path).decode("utf-8", "surrogateescape")
    own = re.fullmatch(r"/proc/self/fd/(\d+)", name)
    if own is not None:
        held = recorder.descriptor(call, int(own[1]))
        return held.inode if held is not None else None
    if not name and folder is not None:
        held = recorder.held(call, folder)
        return held.inode if held is not None else None
    found = recorder.place(call, path, folder)
    return found.inode if found is not None else None


def _fchmod(recorder: Recorder, call: Call, given: list[str]) -> None:
    held = recorder.held(call, given[0])
    if held is not None:
        recorder.do(call, Mode(held.inode, int(given[1], 8)))


def _chmod(recorder: Recorder, call: Call, given: list[str]) -> None:
    _change_mode(recorder, call, given[0], given[1], None)


def _fchmodat(recorder: Recorder, call: Call, given: list[str]) -> None:
    _change_mode(recorder, call, given[1], given[2], given[0])


def _change_mode(recorder: Recorder, call: Call, path: str, mode: str, folder: str | None) -> None:
    place = recorder.place(call, path, folder)
    if place is not None and place.inode is not None:
        recorder.do(call, Mode(place.inode, int(mode, 8)))


def _chdir(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.work_in(call, text_of(given[0]).decode("utf-8", "surrogateescape"))


def _fchdir(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.work_in(call, path_of(given[0]) or "/")


def _execve(recorder: Recorder, call: Call, given: list[str]) -> None:
    recorder.execute(call)


HANDLERS: Mapping[str, Handler] = {
    "openat": _openat,
    "open": _open,
    "creat": _creat,
    "openat2": _openat2,
    "write": _write,
    "pwrite64": _pwrite,
    "writev": _writev,
    "pwritev": _pwritev,
    "pwritev2": _pwritev,
    "lseek": _lseek,
    "ftruncate": _ftruncate,
    "ftruncate64": _ftruncate,
    "truncate": _truncate,
    "truncate64": _truncate,
    "fallocate": _fallocate,
    "fsync": _fsync,
    "fdatasync": _fsync,
    "sync": _sync,
    "syncfs": _sync,
    "close": _close,
    "close_range": _close_range,
    "dup": _dup,
    "dup2": _dup,
    "dup3": _dup3,
    "fcntl": _fcntl,
    "fcntl64": _fcntl,
    "ioctl": _ioctl,
    "mmap": _mmap,
    "mkdir": _mkdir,
    "mkdirat": _mkdirat,
    "unlink": _unlink,
    "rmdir": _unlink,
    "unlinkat": _unlinkat,
    "rename": _rename,
    "renameat": _renameat,
    "renameat2": _renameat,
    "link": _link,
    "linkat": _linkat,
    "fchmod": _fchmod,
    "chmod": _chmod,
    "fchmodat": _fchmodat,
    "fchmodat2": _fchmodat,
    "chdir": _chdir,
    "fchdir": _fchdir,
    "execve": _execve,
    "execveat": _execve,
}
