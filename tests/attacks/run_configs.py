"""A program: each hostile architecture in a process of its own, forked from one that has imported Keras.

It prints a line of JSON for each case. A child has a limit on memory and on time, no network, an audit hook that notes
every file it opens for writing, every socket, process, marshalled or compiled code, and a canary beside it.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

import keras
import tensorflow  # noqa: F401  the vocabularies of every backend are its: imported here it is no memory of a case
from configs import cases

from modelkeep.budget import Budget
from modelkeep.errors import ModelkeepError
from modelkeep.model.build import build

SECONDS = 30
MORE_MEMORY = 3 << 30
NEWNET = 0x40000000
WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.",
    "socket.",
    "marshal.",
    "pickle.",
    "urllib.",
)
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@keras.saving.register_keras_serializable("evil")
class Registered(keras.layers.Layer):
    def __init__(self, **kwargs):
        Path("canary").write_text("a registered class was made")
        super().__init__(**kwargs)


@keras.saving.register_keras_serializable("evil")
def fire(*args, **kwargs):
    Path("canary").write_text("a registered function was called")


def memory(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def attack(name, error, make, budget):
    """In the child: build it, and say what came of that."""
    seen = []
    value = make()
    limit = memory("VmSize") + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    watch(seen)
    started = time.perf_counter()
    try:
        build(value, budget=Budget(**budget), compiled=True)
        raised, text = "nothing", ""
    except ModelkeepError as found:
        raised, text = type(found).__name__, str(found)
    except BaseException as found:  # noqa: BLE001  whatever it was, it is what is told
        raised, text = f"untyped {type(found).__name__}", str(found)
    seconds = time.perf_counter() - started
    return {
        "case": name, "wanted": error, "raised": raised, "text": text[:1500], "seconds": round(seconds, 3),
        "grown": memory("VmHWM") - before, "budget": budget, "seen": seen[:5], "canary": Path("canary").read_text(),
    }  # fmt: skip


def watch(seen):
    here = os.getcwd()

    def hook(event, args):
        if event.startswith(WATCHED):
            if event == "marshal.loads" and sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
                return  # Python reads the compiled modules of its libraries so
            seen.append(f"{event} {args!r:.100}")
        elif event == "open" and isinstance(args[0], str | bytes):
            path = os.path.join(here, os.fsdecode(args[0]))
            if "canary" in path or (
                isinstance(args[2], int) and args[2] & CHANGING and not path.startswith(("/dev/", "/proc/self/"))
            ):
                seen.append(f"open {path}")
        elif event == "import" and "evil" in str(args[0]):
            seen.append(f"import {args[0]}")

    sys.addaudithook(hook)


def forked(name, case):
    """Run one case in a child; what the child says, or how it ended."""
    Path("canary").write_text("")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        told = attack(name, *case)
        told["seen"] = [event for event in told["seen"] if "canary" not in event or told["canary"] or "open" in event]
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    told = b""
    while select.select([reader], [], [], SECONDS)[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        told += part
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return json.loads(told) if told else {"case": name, "wanted": case[0], "raised": f"the process ended: {status}"}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("evil_module.py").write_text("open('canary', 'a').write('a module was imported')\n")
    sys.path.insert(0, sys.argv[1])
    network = "closed" if ctypes.CDLL(None).unshare(NEWNET) == 0 else "as it was"
    chosen = sys.argv[2:]
    for title, each in cases().items():
        if not chosen or title in chosen:
            print(json.dumps({**forked(title, each), "network": network}), flush=True)
