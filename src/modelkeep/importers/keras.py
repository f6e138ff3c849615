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
    """The tensors of a ``.keras`` file; ``metadata`` has ``config.json`` and ``metadata.json`` as texts.

    Assets (vocabularies) are listed in ``metadata["assets"]``, and not opened.

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
    opened, taken = archive.open_member(source, members[WEIGHTS], budget)
    weights = hdf5.read_file(opened, replace(budget, nbytes=budget.nbytes - taken))
    assets: list[Json] = [
        {"name": name, "nbytes": member.size} for name, member in members.items() if not name.endswith("/")
        if name.startswith(_ASSETS)
    ]  # fmt: skip
    return Weights(FORMAT, weights.tensors, {**weights.metadata, **texts, "assets": assets})


def read_folder(folder: str, names: list[str], budget: Budget) -> Weights:
    """The tensors of what ``model.save(path, zipped=False)`` writes: the same members as files.

    Raises:
        Unsafe: a link that leads out of the folder; and what `hdf5.read_file` raises.
    """
    texts: dict[str, Json] = {
        name: folders.read_text(folders.open_member(folder, name), budget) for name in _TEXTS if name in names
    }
    weights = hdf5.read_file(folders.open_member(folder, WEIGHTS), budget)
    return Weights(FORMAT, weights.tensors, {**weights.metadata, **texts, "assets": []})
