"""What h5py says of a file that is scanned: runs in a child, see `modelkeep.hdf5_child`."""

import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from modelkeep.budget import Budget
from modelkeep.errors import UsageError
from modelkeep.hdf5_child import Asked
from modelkeep.scan.findings import Finding, beyond, damaged

_BOMB_BYTES, _BOMB_RATIO = 64 << 20, 100
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
"""HDF5's own filters, and the LZF that h5py has built in; for others a library is loaded."""
_CONFIGS = ("model_config", "training_config")
_DO_NOT = "do not load it; modelkeep reads no other file for it (modelkeep import)"


def findings(source: Asked, budget: Budget) -> dict[str, Any]:
    """The findings of links and datasets, and the texts of the configurations by their names.

    Raises: as `modelkeep.scan.hdf5.findings`.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError("scanning HDF5 needs h5py: pip install 'modelkeep[scan]'") from None
    found: list[Finding] = []
    configs: dict[str, str] = {}
    try:
        with h5py.File(io.BufferedReader(source), "r") as file:
            configs.update(_configs(file, source, budget))
            for one in _of_objects(h5py, file, source, budget):
                found.append(one)  # noqa: PERF402  what was found before it breaks is kept
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        found.append(damaged(source.name, f"its HDF5 cannot be read ({str(error)[:150]})"))
    return {"findings": [asdict(one) for one in found], "configs": configs}


def _configs(file: Any, source: Asked, budget: Budget) -> Iterator[tuple[str, str]]:
    for name in _CONFIGS:
        if name in file.attrs:
            budget.check("text", file.attrs.get_id(name).get_storage_size(), f"{source.name} {name}")
            value = file.attrs[name]
            yield name, value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _of_objects(h5py: Any, file: Any, source: Asked, budget: Budget) -> Iterator[Finding]:
    seen: set[int] = set()
    pending = [(file, "")]
    total = count = 0
    while pending:
        group, path = pending.pop()
        for name in group:
            count += 1
            budget.check("entries", count, source.name)
            place = f"{path}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                what, why = f"a link into the file {link.filename[:200]}", "whoever reads it opens that file"
                yield Finding(f"{source.name} {place}", what, "unsafe", why, _DO_NOT)
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link leads to an object of the same file, which is met on its own
            child = group[name]
            address = h5py.h5o.get_info(child.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(child, h5py.Group):
                budget.check("depth", place.count("/"), f"{source.name} {place[:200]}")
                pending.append((child, place))
            elif isinstance(child, h5py.Dataset):
                yield from _of_dataset(child, f"{source.name} {place}")
                if not child.is_virtual:  # whose shape, where it goes by a pattern, is looked for in files without end
                    total += child.size * child.dtype.itemsize if child.shape is not None else 0
    if total > budget.nbytes:
        yield beyond(source.name, f"datasets of {total:,} bytes")


def _of_dataset(dataset: Any, where: str) -> Iterator[Finding]:
    if dataset.external:
        names = ", ".join(str(one[0])[:200] for one in dataset.external[:3])
        why = "whoever reads it reads that file"
        yield Finding(where, f"values that lie in the file {names}", "unsafe", why, _DO_NOT)
        return
    if dataset.is_virtual:
        names = ", ".join(sorted({one.file_name for one in dataset.virtual_sources()})[:3])
        if names != ".":
            yield Finding(where, f"values taken from {names}", "unsafe", "whoever reads it opens those files", _DO_NOT)
        return
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code = properties.get_filter(index)[0]
        if code not in _FILTERS:
            why = "HDF5 looks for a library of native code to read it"
            yield Finding(where, f"the filter {code}", "suspicious", why, "ask its author for plain or gzip data")
    if dataset.shape is None:
        return
    size, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if size > _BOMB_BYTES and size > _BOMB_RATIO * max(1, stored):
        what = f"{stored:,} bytes that are read as {size:,}"
        yield Finding(where, what, "unsafe", "loading it uses up the memory", "do not load it")
