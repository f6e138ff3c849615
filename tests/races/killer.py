"""Starts a process that saves as fast as it can, kills it, looks, and starts the next.

``python -m tests.races.killer``: a process with nothing in it but numpy, so that a fork costs a few milliseconds.
"""

import argparse
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import modelkeep
from modelkeep.backend import workers
from modelkeep.store import Retain

from ..simulation.facts import is_tree, tree

KILLS_OF_A_RUN = 40
"""A start reads the record of each attempt before it: a run of thousands is another test."""

RUNS_OF_A_KEEP = 5
_ACK = struct.Struct("<q")


def save_for_ever(place: Path, run_name: str, serial: int, pipe: int) -> None:
    """Save state after state, and say of each that it is durable."""
    workers._NICE = 0  # there is no training that it should step back behind
    run = modelkeep.open(place).run(run_name, capture=False)
    run.retain = Retain(last=1 + serial % 3)
    while True:
        serial += 1
        run.save(tree(serial), step=serial, epoch=0, wait=serial % 2 == 0)
        if serial % 2:
            run.wait()
        os.write(pipe, _ACK.pack(serial))


def kill_one(place: Path, run_name: str, serial: int, chance: random.Random) -> list[int]:
    """Let a process save for some moments and kill it; return the serials that it acknowledged."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            save_for_ever(place, run_name, serial, write)
        except BaseException as error:  # noqa: BLE001  the child must end here, whatever it was
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(9)
    os.close(write)
    acks = bytearray()
    if chance.random() < 0.8:  # most let it come to saving first; the others hit the start
        for _ in range(chance.randint(1, 4)):
            acks += os.read(read, 4096)
    select.select([], [], [], chance.expovariate(1 / 0.004))
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL, f"the saver ended by itself: {status}"
    while part := os.read(read, 4096):
        acks += part
    os.close(read)
    return [one for (one,) in _ACK.iter_unpack(acks)]


def look(place: Path, run_name: str, newest: int, *, whole: bool) -> int:
    """The newest checkpoint, which must be the last acknowledged one or a newer, and right; its serial, 0 for none."""
    try:
        keep = modelkeep.open(place, create=False)
        snapshot = keep.snapshot(f"run:{run_name}@last")
    except modelkeep.errors.NotFound:
        assert newest == 0, f"acknowledged and gone: {newest}"
        return 0
    found = int(str(snapshot.meta["step"]))
    assert found >= newest, f"acknowledged and gone: {newest}; the newest is {found}"
    for one in keep.store.run(run_name).checkpoints():
        loaded = keep.load_state(keep.store.snapshot(one.snapshot_id))
        assert is_tree(loaded, one.step), f"step {one.step} is not what was saved"
    if whole:
        damages = [one for one in keep.verify().damages if one.refs]
        assert not damages, damages
    return found


def runs(folder: Path) -> Iterator[tuple[Path, str]]:
    """Where to save: a new run now and then, a new keep now and then."""
    keep = 0
    while True:
        keep += 1
        for run in range(RUNS_OF_A_KEEP):
            yield folder / f"keep-{keep}", f"run-{run}"


def _warm_up() -> None:
    """Import and look up here what each child would otherwise do anew."""
    with modelkeep.open("memory://warm").run("warm", capture=False) as run:
        run.save(tree(1), step=1, epoch=0, wait=True)


def main() -> None:
    """Kill so many, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _warm_up()
    chance, begun = random.Random(options.seed), time.monotonic()
    kills = acked = serial = newest = unacked = 0
    for place, run_name in runs(options.folder):
        newest = 0
        for _ in range(KILLS_OF_A_RUN):
            if kills == options.kills:
                seconds = time.monotonic() - begun
                print(f"kills {kills}, acknowledged {acked}, found and not acknowledged {unacked}, lost 0, "
                      f"seconds {seconds:.1f}, kills/s {kills / seconds:.1f}")  # fmt: skip
                return
            acks = kill_one(place, run_name, serial, chance)
            acked += len(acks)
            kills += 1
            newest = max([newest, *acks])
            found = look(place, run_name, newest, whole=kills % 20 == 0)
            unacked += found > newest
            newest = serial = max(serial, found, newest) if found else newest
            serial = max(serial, newest)


if __name__ == "__main__":
    main()
