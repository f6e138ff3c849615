"""``modelkeep cat``: one tensor in numbers."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption, complete_runs, open_keep
from modelkeep.cli.output import print_gap, print_json, print_table, shown_bytes, shown_number

if TYPE_CHECKING:
    import numpy as np

HELP = "Show the tensor PATH of REF: statistics and a histogram of its values. Its bytes are read and checked."
EPILOG = exit_codes(3, 4, 5, 7, 9)

_BINS = 12
_WIDTH = 40


def command(
    ref: Annotated[str, typer.Argument(metavar="REF", autocompletion=complete_runs, help="A version or checkpoint.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Such as model/dense/kernel.")],
    *,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a tensor."""
    from modelkeep.errors import NotFound
    from modelkeep.state import flatten
    from modelkeep.values import Ref

    parsed = Ref.parse(ref)
    opened = open_keep(parsed.keep or keep)
    snapshot = opened.snapshot(parsed)
    arrays = flatten(opened.load_state(snapshot, select=path)).arrays
    if list(arrays) != [path]:
        listed = ", ".join(list(arrays)[:8])
        raise NotFound(f"{path} is no tensor of {ref}; name one, such as {listed or 'those that `show` lists'}")
    array, spec = arrays[path], snapshot.tensors[path]
    about = {"path": path, "dtype": spec.dtype, "shape": list(spec.shape), "nbytes": snapshot.grid(path).nbytes}
    numbers = _numbers(array)
    if as_json:
        print_json({"keep": opened.url, "snapshot": snapshot.id, **about, **numbers})
    elif quiet:
        print(path)
    else:
        rows = [("dtype", spec.dtype), ("shape", str(list(spec.shape))), ("size", shown_bytes(about["nbytes"]))]  # type: ignore[arg-type]
        rows += [(name, _shown(value)) for name, value in numbers.items() if name != "histogram"]
        print_table(path, ("what", "value"), rows)
        _print_histogram(numbers.get("histogram", []))


def _numbers(array: "np.ndarray[Any, Any]") -> dict[str, Any]:
    """Statistics of the finite values, how many are not, and how the values are spread; nothing for text."""
    import numpy as np

    if array.dtype.kind in "OSUmM" or not array.size:
        return {"values": array.size}
    wide = np.abs(array).astype("float64") if "complex" in array.dtype.name else array.astype("float64")
    finite = wide[np.isfinite(wide)]
    found: dict[str, Any] = {"values": array.size, "not a number": int(np.isnan(wide).sum())}
    found["infinite"] = int(np.isinf(wide).sum())
    if finite.size:
        counts, edges = np.histogram(finite, _BINS)
        found |= {"least": float(finite.min()), "greatest": float(finite.max()), "mean": float(finite.mean())}
        found |= {"deviation": float(finite.std()), "zeros": int((finite == 0).sum())}
        pairs = zip(edges, edges[1:], counts, strict=False)
        found["histogram"] = [[float(low), float(high), int(count)] for low, high, count in pairs]
    return found


def _print_histogram(bins: list[list[float]]) -> None:
    if not bins:
        return
    print_gap()
    most = max(count for _, _, count in bins)
    rows = [
        (shown_number(low), shown_number(high), f"{count:,.0f}", "█" * round(_WIDTH * count / most))
        for low, high, count in bins
    ]
    print_table("values", ("from", "to", "count", ""), rows, right={"from", "to", "count"})


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else shown_number(value)
