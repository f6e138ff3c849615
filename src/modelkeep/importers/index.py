"""Weights over several files that an index names: safetensors and torch of Hugging Face, ``.weights.json`` of Keras."""

from collections.abc import Callable

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, UnknownFormat
from modelkeep.importers import hdf5
from modelkeep.importers.folder import open_member, read_weight_map
from modelkeep.importers.source import File, Source
from modelkeep.importers.weights import Tensor, Weights
from modelkeep.values import Json

SUFFIXES = (".safetensors.index.json", ".bin.index.json", ".weights.json")


def read_index(index: Source, folder: str, budget: Budget, open_file: Callable[[File, Budget], Weights]) -> Weights:
    """The tensors of all shards that an index names; every tensor must lie where the index says.

    Raises:
        Damaged: a tensor in another shard than the index says, or in none.
        Unsafe: the index names something that is no plain file beside it.
        NotFound: a shard is missing.
        LimitExceeded: all shards together are more than the budget allows.
        UnknownFormat: the shards have different formats.
    """
    wanted, about = read_weight_map(index, budget)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Json] = {}
    forms: set[str] = set()
    left = set(wanted)
    for shard in sorted({file for files in wanted.values() for file in files}):
        source = open_member(folder, shard)
        weights = open_file(source, budget)
        forms.add(weights.format)
        for name, tensor in weights.tensors.items():
            key = _key(name, weights.format)
            if shard not in wanted.get(key, ()) or name in tensors:
                raise Damaged(f"{source.name}: it holds {name!r:.200}, which the index has elsewhere", source.name)
            left.discard(key)
            tensors[name] = tensor
        budget.check("entries", len(tensors), index.name)
        budget.check("nbytes", sum(tensor.nbytes for tensor in tensors.values()), index.name)
        optimizer = weights.metadata["optimizer"] or metadata.get("optimizer", "")
        metadata |= {**weights.metadata, "optimizer": optimizer}
    if left or not forms:
        raise Damaged(f"{index.name}: no shard holds {min(left, default='a tensor')!r:.200}", index.name)
    if len(forms) > 1:
        raise UnknownFormat(f"{index.name}: its shards have the formats {', '.join(sorted(forms))}; one is wanted")
    return Weights(forms.pop(), tensors, {**metadata, "index": about})


def _key(name: str, form: str) -> str:
    """What an index calls a tensor: Keras lists the groups that hold variables, the others the tensors themselves."""
    return f"/{name.rpartition('/')[0]}" if form == hdf5.FORMAT else name
