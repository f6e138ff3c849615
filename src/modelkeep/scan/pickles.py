"""Pickles: every import, call and change that is not of the few that tensors need."""

import io
import logging
from collections.abc import Iterator

from modelkeep.scan.findings import Finding, beyond, damaged
from modelkeep.scan.harmless import is_harmless
from modelkeep.scan.opcodes import COMPUTED, Action, Name, Walked, walk
from modelkeep.scan.source import Context, Source

STREAMS = 10_000
"""Pickles behind each other that are followed; a legacy torch file has five."""
_WEIGHTS = "load weights only (torch.load(weights_only=True), modelkeep import), or ask its author for safetensors"


def looks_like(source: Source) -> bool:
    """Whether the bytes are a pickle: they begin one, and it stops, or would import something before it breaks."""
    head = source.read(0, 2)
    if not head:
        return False
    walked = walk(source.file, 0, source.size)
    if len(head) > 1 and head[0] == _PROTO and head[1] <= _NEWEST:
        return walked.stopped or _imports(walked) or (walked.opcodes > _SOME and source.folder is not None)
    if source.suffix in _TEXTS and not walked.stopped and all(one.verb == "import" for one in walked.actions):
        return False  # the lines "cat" and "dog" import at.dog, and break before anything is called
    return _imports(walked) or (walked.stopped and walked.opcodes > _SOME)


_TEXTS = {".txt", ".csv", ".md"}
_PROTO, _NEWEST = 0x80, 5
_SOME = 2
"""Opcodes that random bytes may form. Only of a file of its own is a broken header of a pickle enough."""


def imports_something(source: Source) -> bool:
    """Whether the bytes, followed as a pickle, would import something that has a name."""
    return _imports(walk(source.file, 0, source.size))


def _imports(walked: Walked) -> bool:
    return any(one.target is not None and _is_importable(one.target) for one in walked.actions)


def _is_importable(name: Name) -> bool:
    parts = f"{name.module}.{name.name}".split(".")
    return name.module is not None and all(part.isidentifier() for part in parts)


def findings(source: Source, context: Context) -> list[Finding]:
    """Findings of all pickles that lie behind each other in ``source``."""
    found: list[Finding] = []
    at = 0
    for index in range(STREAMS):
        if at >= source.size:
            return found
        walked = walk(source.file, at, source.size)
        if index and not walked.stopped and not _imports(walked):
            return found  # what lies behind the last pickle is data
        where = source.name if not index else f"{source.name} (pickle {index + 1})"
        found.extend(_judge(walked, where, context))
        if not walked.stopped:
            found.append(_unfinished(walked, source, where))
            return found
        at = walked.end
    found.append(beyond(source.name, f"more than {STREAMS} pickles behind each other"))
    return found


def _unfinished(walked: Walked, source: Source, where: str) -> Finding:
    if walked.exhausted:
        return beyond(where, f"a pickle of more than {walked.opcodes:,} opcodes", "split it")
    if not source.whole:
        return beyond(
            where, "a compressed pickle that is not unpacked to its end", "unpack it, and scan what comes out"
        )
    return damaged(where, f"the pickle breaks off at byte {walked.end:,}")


def _judge(walked: Walked, where: str, context: Context) -> Iterator[Finding]:
    names = {one.target for one in walked.actions if one.target is not None and not is_harmless(one.target)}
    context.budget.check("nodes", len(names), where)
    listed = _listed_as_dangerous(names)
    used = {(one.verb, one.target) for one in walked.actions}
    for action in walked.actions:
        if action.verb == "import" and action.target in names:
            called = ("call", action.target) in used or ("make", action.target) in used
            yield _of_import(action.target, where, action.at, called=called, dangerous=action.target in listed)
        elif action.target is None or action.verb == "build":
            yield _of_action(action, where)


def _of_import(name: Name, where: str, at: int, *, called: bool, dangerous: bool) -> Finding:
    what = f"imports {name}" + (" and calls it" if called else "")
    if name is COMPUTED:
        why = "the name is made while it is loaded, which hides what is imported"
    elif dangerous:
        why = "this one is known to run code, or to reach files or the network"
    else:
        why = "importing a module runs it, and calling what is in it runs more, with arguments from the file"
    return Finding(f"{where} byte {at}", what, "unsafe", why, _WEIGHTS)


def _of_action(action: Action, where: str) -> Finding:
    what, why = {
        "call": ("calls something that it has computed", "what is called cannot be known before it is loaded"),
        "make": ("makes an object of a class that it has computed", "what is made cannot be known before it is loaded"),
        "extension": ("uses an extension code of copyreg", "what it stands for is up to the process that loads it"),
        "build": (f"changes attributes of {action.target} itself", "it changes what other code of the process does"),
        "import": ("imports something", "importing a module runs it"),
    }[action.verb]
    return Finding(f"{where} byte {action.at}", what, "unsafe", why, _WEIGHTS)


def _listed_as_dangerous(names: set[Name]) -> set[Name]:
    """Those that picklescan, when it is installed, lists as dangerous. It judges names that *we* found."""
    try:
        from picklescan.scanner import SafetyLevel, scan_pickle_bytes
    except ImportError:
        return set()
    log = logging.getLogger("picklescan")
    before, log.disabled = log.disabled, True
    try:
        return {
            name
            for name in names
            if name.module is not None and name.module.isprintable() and name.name.isprintable()
            for one in scan_pickle_bytes(io.BytesIO(f"c{name.module}\n{name.name}\n.".encode()), "names").globals
            if one.safety is SafetyLevel.Dangerous
        }
    finally:
        log.disabled = before
