"""``.keras``: a zip file (or a folder) of configuration, weights as HDF5, and assets. Nothing is extracted."""

from dataclasses import replace

from modelkeep.budget import Budget
from modelkeep.errors import UnknownFormat
from modelkeep.importers import archive, hdf5
from modelkeep.importers import folder as folders
from modelkeep.importers.archive import Member
from modelkeep.importers.source import Source
from modelkeep.importers.weights import Weights
from modelkeep.values import Json

FORMAT = "keras"
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_TEXTS = (CONFIG, "metadata.json")
_ASSETS = "assets/"


def read_zip(source: Source, members: dict[str, Member], budget: Budget) -> Weights:
    """The tensors and assets of a ``.keras`` file; ``metadata`` has ``config.json`` and ``metadata.json`` as texts.

    Raises:
        Damaged: a member is not what was written, by its checksum.
        UnknownFormat: a member that no ``.keras`` file has.
        LimitExceeded: a member, unpacked, is more than the budget allows; and what `hdf5.read_file` raises.
    """
    for name in members:
        if name not in (*_TEXTS, WEIGHTS) and not name.startswith(_ASSETS):
            raise UnknownFormat(f"{source.name}: the member {name!r:.200} is none that a .keras file has")
    texts: dict[str, Json] = {
        name: archive.read_text(source, members[name], budget) for name in _TEXTS if name in members
    }
    assets: dict[str, Source] = {}
    for name, member in members.items():
        if name.startswith(_ASSETS) and not name.endswith("/"):
            assets[name.removeprefix(_ASSETS)], taken = archive.open_member(source, member, budget)
            budget = replace(budget, nbytes=budget.nbytes - taken)
    opened, taken = archive.open_member(source, members[WEIGHTS], budget)
    weights = hdf5.read_file(opened, replace(budget, nbytes=budget.nbytes - taken))
    return replace(weights, format=FORMAT, metadata={**weights.metadata, **texts}, assets=assets)


def read_folder(folder: str, names: list[str], budget: Budget) -> Weights:
    """The tensors and assets of what ``model.save(path, zipped=False)`` writes: the same members as files.

    Raises:
        Unsafe: a link that leads out of the folder; and what `hdf5.read_file` raises.
    """
    texts: dict[str, Json] = {
        name: folders.read_text(folders.open_member(folder, name), budget) for name in _TEXTS if name in names
    }
    assets = {
        name.removeprefix(_ASSETS): folders.open_member(folder, name)
        for name in folders.list_files(folder, _ASSETS.removesuffix("/"), budget)
    }
    weights = hdf5.read_file(folders.open_member(folder, WEIGHTS), budget)
    return replace(weights, format=FORMAT, metadata={**weights.metadata, **texts}, assets=assets)
