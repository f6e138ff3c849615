"""Play random programs, one for each seed: ``PYTHONHASHSEED=0 python -m tests.simulation --seeds 0:100``."""

import argparse
import hashlib
import os
import sys
import time
import traceback

from .disk import UnknownCall
from .kernel import Gone
from .program import Program, Totals


def main() -> int:
    """Play, print what was tried, and for a broken promise how to play it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="FIRST:PAST")
    parser.add_argument("--bucket", action="store_true", help="in an object store instead of on a disk")
    parser.add_argument("--verbs", type=int, default=30, help="verbs of a program")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no program after so many")
    parser.add_argument("--trace", type=int, default=0, help="print the last so many calls before what broke")
    parser.add_argument("--all", action="store_true", help="go on after a broken promise")
    parser.add_argument("--digest", action="store_true", help="print a digest of the calls of each program")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("the order of sets is part of what is replayed: set PYTHONHASHSEED=0")
    first, past = map(int, options.seeds.split(":"))
    totals, broken, begun = Totals(), 0, time.monotonic()
    for seed in range(first, past):
        if time.monotonic() - begun > options.seconds:
            break
        program = Program(seed, bucket=options.bucket)
        if options.trace or options.digest:
            program.place.kernel.log = []
        try:
            totals.add(program.play(options.verbs))
            if options.digest:
                print(f"seed {seed} digest {hashlib.sha256(repr(program.place.kernel.log).encode()).hexdigest()}")
        except (Exception, Gone, UnknownCall):  # noqa: BLE001  whatever it was, it is told with its seed
            broken += 1
            for process, verb, path in (program.place.kernel.log or [])[-options.trace :]:
                print(f"{process:12} {verb:16} {path}")
            traceback.print_exc()
            print(f"seed {seed} is broken; again: {_again(seed, options)}", flush=True)
            if not options.all:
                return 1
    _tell(totals, broken)
    return 1 if broken else 0


def _again(seed: int, options: argparse.Namespace) -> str:
    place = "--bucket " if options.bucket else ""
    command = "PYTHONHASHSEED=0 python -m tests.simulation"
    return f"{command} {place}--seeds {seed}:{seed + 1} --verbs {options.verbs} --trace 60"


def _tell(totals: Totals, broken: int) -> None:
    seconds = max(totals.seconds, 1e-9)
    verbs = sum(count for name, count in totals.verbs.items() if ":" not in name)
    print(
        f"programs {totals.programs}, broken {broken}, verbs {verbs}, calls {totals.calls}, power cuts {totals.cuts}, "
        f"disk images {totals.images}, kills {totals.events['kill'] + totals.verbs['kills']}, "
        f"intrusions {totals.events['intrusion']}, CPU seconds {seconds:.1f}, "
        f"calls/s {totals.calls / seconds:.0f}, verbs/s {verbs / seconds:.0f}"
    )
    for counter in (totals.verbs, totals.events):
        print(", ".join(f"{name} {count}" for name, count in sorted(counter.items())))


if __name__ == "__main__":
    sys.exit(main())
