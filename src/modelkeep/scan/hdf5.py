"""HDF5 (`.h5`, `.weights.h5`): links and storage outside the file, bombs, and the model that Keras puts there."""

from functools import partial

from modelkeep.errors import Damaged
from modelkeep.hdf5_child import ask
from modelkeep.scan import keras_config
from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.source import Context, Source
from modelkeep.scan.strict_json import parse

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LIBRARY = "modelkeep.scan.hdf5_library:findings"


def begins_at(source: Source) -> int | None:
    """Where its signature lies: at 0, or behind a block of the user's, at 512 bytes or a doubling of it."""
    at = 0
    while at < source.size:
        if source.read(at, len(SIGNATURE)) == SIGNATURE:
            return at
        at = at * 2 or 512
    return None


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of one file. No dataset is read.

    Raises:
        UsageError: h5py is not installed.
        LimitExceeded: more objects than the budget has.
    """
    if not source.whole:
        return [beyond(source.name, "a compressed HDF5 file that is too large to unpack", "unpack it, and scan it")]
    try:
        answer = ask(_LIBRARY, source.name, source.size, partial(_read, source), context.budget)
    except Damaged as error:
        return [damaged(source.name, str(error).removeprefix(f"{source.name}: ")[:200])]
    found = [Finding(**one) for one in answer["findings"]]
    for name, text in answer["configs"].items():
        try:
            parsed = parse(text.encode("utf-8", "surrogateescape"), f"{source.name} {name}", context)
        except ValueError as error:
            found.append(damaged(f"{source.name} {name}", f"it is not JSON ({str(error)[:100]})"))
        else:
            found.extend(keras_config.findings(parsed.value, f"{source.name} {name}", context))
    return found


def _read(source: Source, offset: int, count: int) -> bytes:
    data = source.read(offset, count)
    if len(data) < count:
        raise Damaged(f"{source.name}: it has become shorter while it was read")
    return data
