"""A save into a bucket, hashed and never replacing anything, beside one multipart put of the same bytes.

The server (SeaweedFS) runs on this machine, on the same processors: so the network is not what is measured, but what
is done beside the transfer. A staging folder is measured as a run waits for it: until the state is durable there.
What a training waits for at an asynchronous save, the call, is measured in a folder, a bucket, and one with staging.
"""

import os
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tests.object_stores import BUCKET, WEED, seaweed

from bench import contest, report, scratch, states
from bench.contest import Contender
from bench.report import Report
from bench.settings import Settings

_PART = 8 << 20
"""Bytes of a part of a multipart put: obstore sends twelve at once."""


def run(settings: Settings) -> list[Report]:
    """The tables; nothing where SeaweedFS is not installed."""
    if not WEED.exists():
        return []
    size = min(settings.size, 256 << 20)
    with scratch.folder() as root:
        (root / "weed").mkdir()
        with seaweed(root / "weed") as variables:
            before = dict(os.environ)
            os.environ.update(variables)
            try:
                return [_measured(settings, size, root), _waited(settings, size, root)]
            finally:
                os.environ.clear()
                os.environ.update(before)


def _measured(settings: Settings, size: int, root: Path) -> Report:
    import obstore
    from obstore.store import from_url

    import modelkeep as mk

    arrays = states.make(size, 100)
    whole = np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays.values()])
    client: Any = from_url(
        f"s3://{BUCKET}/raw", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True},
        access_key_id="test", secret_access_key="testsecret", region="us-east-1",
    )  # fmt: skip
    direct = mk.open(f"s3://{BUCKET}/direct/keep")
    staged = mk.open(f"s3://{BUCKET}/staged/keep", staging=root / "staging")

    def raw(*, parts: bool) -> float:
        began = perf_counter()
        obstore.put(client, "one", whole.data, use_multipart=parts, chunk_size=_PART)
        seconds = perf_counter() - began
        obstore.delete(client, "one")
        return seconds

    def save(keep: mk.Keep) -> float:
        for array in arrays.values():
            array.reshape(-1).view(np.uint32)[:] += 1
        began = perf_counter()
        keep.save_state(arrays)
        seconds = perf_counter() - began
        keep.flush()
        for entry in [*keep.store.backend.list("shards"), *keep.store.backend.list("snapshots")]:
            keep.store.backend.delete(entry.key)
        return seconds

    found = contest.hold(
        [
            Contender("obstore, one multipart put", "limit", lambda: raw(parts=True)),
            Contender("obstore, one put", "limit", lambda: raw(parts=False)),
            Contender("modelkeep, into the bucket", "ours", lambda: save(direct)),
            Contender("modelkeep, until it is durable in the staging folder", "ours", lambda: save(staged)),
        ],
        settings.rounds,
        told=settings.told,
    )
    table = report.compared(f"save of {size >> 20} MiB in 100 arrays into a bucket on this machine", found, found[0])
    table.remarks.append(f"into the bucket: {1 / found[2].ratio(found[0]):.2f} of the speed of one multipart put")
    return table


def _waited(settings: Settings, size: int, root: Path) -> Report:
    """The call of an asynchronous save of arrays, which copies them; what is written behind is not counted."""
    import modelkeep as mk

    arrays = states.make(size, 100)
    copies = {name: np.empty_like(array) for name, array in arrays.items()}
    keeps = {
        "in a folder": mk.open(root / "keep"),
        "in the bucket": mk.open(f"s3://{BUCKET}/waited/keep"),
        "in the bucket, with a staging folder": mk.open(f"s3://{BUCKET}/waited-staged/keep", staging=root / "waited"),
    }
    runs = {name: keep.run("bench", seed=0, capture=False) for name, keep in keeps.items()}
    steps = count(1)

    def copy() -> float:
        began = perf_counter()
        for name, array in arrays.items():
            np.copyto(copies[name], array)
        return perf_counter() - began

    def call(name: str) -> float:
        for array in arrays.values():
            array.reshape(-1).view(np.uint32)[:] += 1
        step = next(steps)
        began = perf_counter()
        runs[name].save(arrays, step=step, epoch=0)
        seconds = perf_counter() - began
        runs[name].wait()
        keeps[name].flush()
        return seconds

    found = contest.hold(
        [
            Contender("one copy of the bytes", "limit", copy),
            *(Contender(name, "ours", partial(call, name)) for name in runs),
        ],
        settings.rounds,
        told=settings.told,
    )
    for run in runs.values():
        run.close()
    return report.compared(
        f"the call of an asynchronous save of {size >> 20} MiB in 100 arrays, by where the keep lies", found, found[0]
    )
