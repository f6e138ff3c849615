"""``.pt``, ``.pth``, ``.bin``: what ``torch.save`` writes of a state dict or a checkpoint, read without torch.

Both forms: the zip file since 1.6, and the chain of pickles before (``_use_new_zipfile_serialization=False``). The
pickle is run by `modelkeep.importers.pickles`, in which tensors are descriptions and a storage is a place in the file.
"""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat, Unsafe
from modelkeep.importers import archive, pickles
from modelkeep.importers.archive import Member
from modelkeep.importers.source import Part, Source, read_bytes, stream
from modelkeep.importers.torch_tensors import ALLOWED, STORAGES, Storage, Stored, call, is_dense, reach
from modelkeep.importers.torch_values import Flattener
from modelkeep.importers.weights import Weights
from modelkeep.snapshot.dtypes import numpy_dtype

FORMAT = "torch"
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CODE = ("constants.pkl", "code/", "bytecode.pkl", "mobile_debug_handles.json")

_Place = Callable[[Stored], NDArray[Any]]


def looks_like_legacy(head: bytes) -> bool:
    """Whether a file begins with the number that ``torch.save`` wrote first before 1.6."""
    return pickles.looks_like(head) and head[2:].startswith(_LEGACY_MAGIC)


def root_of(members: dict[str, Member]) -> str:
    """The folder that all members of a torch file lie in, with its ``/``; an empty text when it is none."""
    roots = {name.split("/", 1)[0] for name in members}
    root = f"{roots.pop()}/" if len(roots) == 1 else ""
    return root if f"{root}data.pkl" in members else ""


def read_zip(source: Source, members: dict[str, Member], budget: Budget) -> Weights:
    """The tensors of a zip file of ``torch.save``.

    Raises:
        Unsafe: TorchScript, or a pickle that is more than weights.
        Damaged: storages are missing, too short, or reached past their end.
        UnknownFormat: sparse, quantized and other tensors, or members that are compressed.
        LimitExceeded: more than the budget allows.
    """
    root = root_of(members)
    for name, member in members.items():
        if name.startswith(tuple(root + code for code in _CODE)):
            raise Unsafe(
                f"{source.name}: this is TorchScript, a program; save its weights alone where you trust it: "
                "torch.save(torch.jit.load(path).state_dict(), other)"
            )
        if member.method != archive.STORED:
            raise UnknownFormat(f"{source.name}: {name!r:.200} is compressed; torch.save stores, so save it again")
    storages = _Storages(source, members, root)
    machine = pickles.Machine(source.name, budget, partial(call, source.name), storages.refer, ALLOWED)
    pickle = members[f"{root}data.pkl"]
    budget.check("text", pickle.size, f"{source.name}: {pickle.name}")
    for _ in archive.read_member(source, pickle) if storages.checked else ():
        pass
    value = machine.run(stream(Part(source, pickle.start, pickle.size, source.name)))
    return Flattener(source.name, budget, storages.read).weights(FORMAT, value)


class _Storages:
    """The storages of a zip file, each a member that is read where it lies."""

    def __init__(self, source: Source, members: dict[str, Member], root: str) -> None:
        self._source, self._members, self._root = source, members, root
        # torch can be told to leave the checksums out: all of them are 0 then
        self.checked = any(member.crc for member in members.values())
        self._seen: set[str] = set()
        order = members.get(f"{root}byteorder")
        text = "little" if order is None else read_bytes(source, order.start, min(order.size, 64)).decode("latin1")
        if text not in ("little", "big"):
            raise Damaged(f"{source.name}: its byte order is {text!r:.80}, neither little nor big", source.name)
        self._swapped = text == "big"

    def refer(self, saved: Any) -> Storage:
        """The storage that a pickle refers to, once its member has as many bytes as the pickle says."""
        storage = parse_reference(self._source.name, saved)
        member = self._members.get(f"{self._root}data/{storage.key}")
        if member is None or member.size != storage.nbytes:
            raise Damaged(
                f"{self._source.name}: storage {storage.key!r:.80} should have {storage.nbytes:,} bytes, and it has "
                f"{member.size if member else 'none'}",
                self._source.name,
            )
        return storage

    def read(self, tensor: Stored) -> NDArray[Any]:
        """The values of a tensor; the checksum of its whole storage is compared first."""
        member = self._members[f"{self._root}data/{tensor.storage.key}"]
        known = not self.checked or member.name in self._seen
        whole = is_dense(tensor) and reach(tensor) == (0, member.size) and not tensor.conjugate and not tensor.negative
        if not known and not whole:
            for _ in archive.read_member(self._source, member):
                pass
            self._seen.add(member.name)
        array = read_view(self._source, member.start, tensor)
        if not known and whole and zlib.crc32(array.reshape(-1).view(np.uint8).data) != member.crc:
            raise Damaged(f"{self._source.name}: the checksum of {member.name} does not match", self._source.name)
        return array.byteswap() if self._swapped else array


def read_legacy(source: Source, budget: Budget) -> Weights:
    """The tensors of a file of ``torch.save`` before 1.6: five pickles, then the storages one behind the other.

    Raises:
        Unsafe: a pickle that is more than weights.
        Damaged: cut off, or storages that do not fit.
        UnknownFormat: another version of the format.
        LimitExceeded: more than the budget allows.
    """
    file = stream(source)
    file.seek(2 + len(_LEGACY_MAGIC))
    storages: dict[str, Storage] = {}

    def refer(saved: Any) -> Storage:
        if isinstance(saved, tuple) and saved[:1] == ("module",):
            raise Unsafe(f"{source.name}: it holds a whole module with its source; save model.state_dict() instead")
        storage = parse_reference(source.name, saved)
        known = storages.setdefault(storage.key, storage)
        if known.nbytes != storage.nbytes and "uint8" not in (known.dtype, storage.dtype):
            raise Damaged(f"{source.name}: storage {storage.key!r:.80} is there with two sizes", source.name)
        return storage

    def run() -> Any:
        limit = min(source.size, file.tell() + budget.text)
        start = file.tell()
        part = stream(Part(source, start, limit - start, source.name))
        value = pickles.Machine(source.name, budget, partial(call, source.name), refer, ALLOWED).run(part)
        file.seek(start + part.tell())
        return value

    version, system, value, keys = run(), run(), run(), run()
    little = isinstance(system, dict) and system.get("little_endian") is True
    if type(version) is not int or version != 1001 or not little:
        raise UnknownFormat(f"{source.name}: another version of the old format of torch.save; save it again")
    places = _legacy_places(source, file.tell(), keys, storages)
    read = lambda tensor: read_view(source, places[tensor.storage.key], tensor)  # noqa: E731
    return Flattener(source.name, budget, read).weights(FORMAT, value)


def _legacy_places(source: Source, offset: int, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Where the bytes of each storage begin: a count of 8 bytes, then the values."""
    places: dict[str, int] = {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise Damaged(f"{source.name}: the storages at the end are not those that its tensors take", source.name)
    for key in keys:
        (count,) = struct.unpack("<q", read_bytes(source, offset, 8))
        storage = storages[key]
        if count * numpy_dtype(storage.dtype).itemsize != storage.nbytes:
            raise Damaged(f"{source.name}: storage {key!r:.80} has another size than its tensors say", source.name)
        places[key] = offset + 8
        offset += 8 + storage.nbytes
    if offset != source.size:
        raise Damaged(f"{source.name}: it ends at {source.size:,}, and its storages at {offset:,}", source.name)
    return places


def parse_reference(where: str, saved: Any) -> Storage:
    """The storage of a persistent id ``("storage", class, key, device, count[, view])``.

    Raises:
        Damaged: it is no such tuple.
    """
    if isinstance(saved, tuple) and len(saved) in (5, 6):
        word, kind, key, _, count = saved[:5]
        view = saved[5] if len(saved) == 6 else None
        fine = word in ("storage", b"storage") and isinstance(kind, pickles.Global) and kind.name in STORAGES
        if fine and isinstance(key, str) and type(count) is int and 0 <= count < 1 << 62 and view is None:
            dtype = STORAGES[kind.name]
            return Storage(key, dtype, count * numpy_dtype(dtype).itemsize)
    raise Damaged(f"{where}: its pickle refers to something that is no storage", where)


def read_view(source: Source, start: int, tensor: Stored) -> NDArray[Any]:
    """The values of a tensor whose storage begins at ``start``, in C order whatever its strides."""
    first, past = reach(tensor)
    dtype = numpy_dtype(tensor.dtype)
    flat = np.empty((past - first) // dtype.itemsize, dtype)
    if flat.nbytes:
        if start + past > source.size:
            raise Damaged(f"{source.name}: the storage {tensor.storage.key!r:.80} is cut off", source.name)
        source.read_into(start + first, flat.view(np.uint8).data)
    if is_dense(tensor):
        array = flat.reshape(tensor.shape)
    else:
        steps = tuple(step * dtype.itemsize for step in tensor.stride)
        array = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps).copy(order="C")
    if tensor.conjugate:
        array = array.conj()
    return np.negative(array) if tensor.negative else array
