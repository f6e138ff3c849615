"""Save states of 80 MB into a run, one after the other, and say which are acknowledged: ``PLACE``."""

import sys

import numpy as np

import modelkeep as mk

if __name__ == "__main__":
    with mk.open(sys.argv[1]).run("long", seed=1) as run:
        first = run.resumed[0].step + 1 if run.resumed else 1
        for step in range(first, first + 1000):
            run.save({"step": step, "w": np.full((20, 1_000_000), step, "f4")}, step=step, epoch=0, wait=True)
            print(step, flush=True)
