"""System calls of a program, as ``strace`` tells them.

Everything is traced but what is known to change nothing, so that a call that nobody has thought of is seen.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MARK = "/__MARK__/"
"""The traced program speaks by opening a file here, which is not there."""

_HARMLESS = """read readv pread64 preadv preadv2 stat lstat fstat newfstatat statx access faccessat faccessat2 readlink
readlinkat getdents getdents64 statfs fstatfs fadvise64 flock poll ppoll select pselect6 epoll_wait epoll_pwait
epoll_ctl epoll_create1
eventfd2 futex futex_waitv nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time
brk munmap madvise mincore membarrier rseq getrandom rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
getpid gettid getppid getuid geteuid getgid getegid getpgrp getrlimit prlimit64 getrusage sysinfo uname
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min set_robust_list set_tid_address arch_prctl prctl getcwd setpriority getpriority getcpu
get_mempolicy set_mempolicy mbind wait4 waitid kill tgkill times umask capget lgetxattr getxattr fgetxattr
""".split()  # noqa: SIM905  one a line would be a page
UMASK = 0o022
"""What the traced program takes away from the permissions of new files."""
_LINE = re.compile(r"(?P<pid>\d+) +(?P<rest>.*)")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"
_TOKEN = re.compile(r'"[^"]*"(?:\.\.\.)?|<[^<>"]*>|[\[{(]|[\]})]|, |[^"\[\]{}(), <]+|.')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that returned."""

    pid: int
    name: str
    text: str
    """The arguments as they were printed; strings and paths in hexadecimal digits."""
    result: int
    """-1 when it failed; then ``error`` tells why."""
    error: str
    begun: int
    ended: int

    def arguments(self) -> list[str]:
        """The arguments, each as it was printed."""
        found, depth, current = [], 0, []
        for match in _TOKEN.finditer(self.text):
            token = match[0]
            depth += (token in "[{(") - (token in "]})")
            if token == ", " and depth == 0:
                found.append("".join(current))
                current = []
            else:
                current.append(token)
        return [*found, "".join(current)] if current or found else found


@dataclass(frozen=True, slots=True)
class Born:
    """A call that makes a process or thread, which may act before the call returns."""

    pid: int
    text: str


@cache
def missing() -> str:
    """Why nothing can be traced here; empty where it can."""
    if sys.platform != "linux":
        return "system calls are traced on Linux only"
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False
    )
    return f"strace does not work here: {tried.stderr.strip()[-200:]}" if tried.returncode else ""


def trace(command: Sequence[str], log: Path, *, cwd: Path, env: dict[str, str], seconds: float = 300) -> str:
    """Run ``command`` and write its system calls to ``log``; return what it printed.

    Raises:
        AssertionError: it failed; with what it printed.
    """
    tracer = ["strace", "-f", "-y", "-xx", "-v", "-s", "1000000000", "--seccomp-bpf", "-o", str(log)]
    tracer += ["-e", f"trace=!{','.join(_known(_HARMLESS))}", "-e", "signal=none"]
    done = subprocess.run(
        [*tracer, "--", *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=seconds,
        check=False,
        umask=UMASK,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@cache
def _known_to_strace(name: str) -> bool:
    tried = ["strace", "-o", "/dev/null", "-e", f"trace={name}", "true"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def _known(names: Sequence[str]) -> list[str]:
    """Those names that this strace on this machine knows: processors differ in their calls."""
    tried = ["strace", "-o", "/dev/null", "-e", f"trace={','.join(names)}", "true"]
    if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
        return list(names)
    return [name for name in names if _known_to_strace(name)]


def parse(log: Path) -> Iterator[Call | Born]:
    """The calls of a log in the order in which they returned.

    Line ``n`` is the moments ``2 n`` and ``2 n + 1``: a call on one line was in flight between the two.
    """
    waiting: dict[int, tuple[str, str, int]] = {}
    with log.open(encoding="latin-1") as lines:
        for number, line in enumerate(lines):
            match = _LINE.match(line.rstrip("\n"))
            assert match is not None, f"line {number} of the trace is none: {line[:200]}"
            pid, rest = int(match["pid"]), match["rest"]
            if rest.startswith(("+++", "---")):
                continue
            resumed = _RESUMED.match(rest)
            if resumed is not None:
                name, head, begun = waiting.pop(pid)
                tail = resumed["rest"]
            else:
                call = _CALL.match(rest)
                assert call is not None, f"line {number} of the trace is no call: {line[:200]}"
                name, head, tail, begun = call["name"], "", call["rest"], 2 * number
            if tail.endswith(_UNFINISHED):
                waiting[pid] = (name, head + tail.removesuffix(_UNFINISHED), begun)
                if name in ("clone", "clone3", "fork", "vfork"):
                    yield Born(pid, head + tail)
                continue
            yield _returned(pid, name, head + tail, begun, 2 * number + 1)


def _returned(pid: int, name: str, text: str, begun: int, ended: int) -> Call:
    arguments, equals, result = text.rpartition(" = ")
    assert equals, f"a call without a result: {name}({text[:200]}"
    arguments = arguments.rstrip()
    assert arguments.endswith(")"), f"{name}: {arguments[-100:]}"
    words = result.split(maxsplit=1)
    number = re.match(r"-?(0x[0-9a-f]+|\d+)", words[0])
    value = int(number[0], 0) if number else -1
    error = words[1] if value == -1 and len(words) > 1 else ""
    return Call(pid, name, arguments[:-1], value, error, begun, ended)


def text_of(printed: str) -> bytes:
    """The bytes of a string argument.

    >>> text_of(r'"\\x61\\x62"')
    b'ab'
    """
    assert re.fullmatch(r'"[^"]*"', printed), f"not a whole string: {printed[:100]}"
    return bytes.fromhex(printed[1:-1].replace("\\x", ""))


def path_of(printed: str) -> str | None:
    """The path that is told behind a descriptor, ``3</path>``; None where it has none."""
    match = re.match(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>", printed)
    return None if match is None else bytes.fromhex(match[1].replace("\\x", "")).decode("utf-8", "surrogateescape")


def descriptor_of(printed: str) -> int | None:
    """The number of a descriptor, None for ``AT_FDCWD``."""
    match = re.match(r"\d+", printed)
    return int(match[0]) if match else None
