"""Durable save: hashed and fsynced by modelkeep, beside the raw limits and the savers of others."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import contest, report, scratch
from bench.contest import Contender
from bench.report import Report
from bench.settings import Settings
from bench.worker import Worker

_PEERS = ("Numpy", "Torch", "Tensorflow", "Jax")
_QUICK_PEERS = ("Numpy", "Torch")


def run(settings: Settings) -> list[Report]:
    """The tables of saves: large ones with used and with warm pages, then small ones."""
    mib = settings.size >> 20
    reports = []
    with scratch.folder() as root, ExitStack() as stack:
        workers = _workers(stack, settings, settings.size, 200)
        for state, prepare in (
            ("as retention leaves it: three files kept", lambda: None),
            ("pages of a file unlinked just before", lambda: scratch.hand_on_pages(root, settings.size)),
        ):
            found = contest.hold(_contenders(workers, root, prepare, settings), settings.rounds, told=settings.told)
            reports.append(_table(f"durable save of {mib} MiB in 200 arrays; memory {state}", found))
    with scratch.folder() as root, ExitStack() as stack:
        workers = _workers(stack, settings, 1 << 20, 50)
        found = contest.hold(_contenders(workers, root, lambda: None, settings), settings.rounds, told=settings.told)
        small = _table("durable save of 1 MiB in 50 arrays", found)
        small.remarks.append(f"fsync calls of one modelkeep save: {workers['Ours'].call('syncs', str(root / 'syncs'))}")
        reports.append(small)
    return reports


def _workers(stack: ExitStack, settings: Settings, size: int, count: int) -> dict[str, Worker]:
    return {
        name: stack.enter_context(Worker(f"bench.savers.{name}", size=size, count=count))
        for name in ("Raw", "Ours", *(_QUICK_PEERS if settings.quick else _PEERS))
    }


def _contenders(
    workers: dict[str, Worker], root: Path, prepare: Callable[[], None], settings: Settings
) -> list[Contender]:
    ring = scratch.Ring(root)
    found = []

    def add(name: str, kind: str, family: str, way: str, durable: bool) -> None:
        def measure() -> float:
            path = ring.next()
            scratch.settle()
            prepare()
            return float(workers[family].call("save", way, str(path), durable))

        # the slow peers take part in every third round: their ratios need no more, and the machine is shared
        found.append(Contender(name, kind, measure, every=1 if kind != "peer" else settings.peers_every))

    for way in workers["Raw"].call("ways"):
        add(way, "limit", "Raw", way, False)
    for way in workers["Ours"].call("ways"):
        add(way, "ours", "Ours", way, False)
    for family in [name for name in workers if name in _PEERS]:
        for way in workers[family].call("ways"):
            add(f"{way}, as it is", "peer", family, way, False)
            add(f"{way}, then fsync", "peer", family, way, True)
    return found


def _table(title: str, results: list[contest.Result]) -> Report:
    limit, ours = contest.fastest(results, "limit"), contest.fastest(results, "ours")
    table = report.compared(title, results, limit)
    table.remarks.append(
        f"modelkeep reaches {1 / ours.ratio(limit):.2f} of the fastest raw way ({limit.contender.name})"
    )
    torch = next(result for result in results if result.contender.name == "torch.save, as it is")
    table.remarks.append(f"modelkeep, durable and hashed, takes {ours.ratio(torch):.2f} x torch.save, which is neither")
    return table
