"""TorchScript: a program, told by the folder of code in its archive."""

from collections.abc import Iterable, Iterator

from modelkeep.scan.findings import Finding

_WAY_OUT = "have its author save the state_dict, and build the module from code that you have read"


def findings_of_names(where: str, names: Iterable[str]) -> Iterator[Finding]:
    """At most one finding, for an archive whose members have these names."""
    code = [name for name in names if "/code/" in f"/{name}" and name.endswith(".py")]
    if code:
        why = "torch.load and torch.jit.load run it: TorchScript can read and write files, and never ends if it likes"
        yield Finding(where, f"TorchScript: {len(code)} files of code", "unsafe", why, _WAY_OUT)
