"""What a pickle would do: an abstract machine that follows its opcodes and imports, calls and builds nothing.

It reads arguments by their lengths alone, since the real unpickler accepts numbers and texts that
``pickletools.genops`` stops at, and it keeps the memo by index, since a scanner that guesses it can be led astray.
"""

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeAlias, final

LINE: Final = 16 << 20
"""Bytes of an argument that ends with its line: texts and numbers of protocol 0 do."""
NAME: Final = 1 << 12
"""A longer text cannot be the name of a module, and is not kept."""
OPCODES: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the pickle imports. ``module`` is None when it is computed by the pickle itself."""

    module: str | None
    name: str

    def __str__(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}" if self.module is not None else self.name


@dataclass(frozen=True, slots=True)
class Made:
    """What a call gave. ``by`` is the global that was called, or None."""

    by: Name | None


@final
class Mark:
    """Where the arguments of the next collecting opcode begin."""


Value: TypeAlias = "str | Name | Made | Mark | None"
COMPUTED: Final = Name(None, "a name that the pickle computes")


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that happens: ``import``, ``call``, ``make``, ``build``, ``extension`` of ``target``."""

    verb: str
    target: Name | None
    at: int


@dataclass(frozen=True, slots=True)
class Walked:
    """What one pickle does. ``stopped`` is False when it ends before STOP, or in bytes that are no opcode."""

    actions: tuple[Action, ...]
    end: int
    stopped: bool
    opcodes: int
    exhausted: bool = False


def walk(file: BinaryIO, at: int, size: int) -> Walked:
    """Follow one pickle from the position ``at`` to its STOP, or to where it breaks."""
    machine = _Machine(file, at, size)
    stopped = machine.run()
    found = tuple(dict.fromkeys(machine.actions))
    return Walked(found, machine.at, stopped, machine.count, machine.count >= OPCODES)


_TABLE: Final = {ord(one.code): one for one in pickletools.opcodes}
_PREFIXED: Final = {-2: 1, -3: 4, -4: 4, -5: 8}  # pickletools' codes for arguments that begin with their length
_TEXTS: Final = {
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip


class _Machine:
    def __init__(self, file: BinaryIO, at: int, size: int) -> None:
        self.file, self.at, self.size = file, at, size
        self.actions: list[Action] = []
        self.seen: set[Action] = set()
        self.count = 0
        self.stack: list[Value] = []
        self.memo: dict[int, Value] = {}
        self.handlers: dict[str, Callable[[bytes], None]] = {
            "GLOBAL": self._global, "STACK_GLOBAL": self._stack_global, "INST": self._inst, "OBJ": self._obj,
            "REDUCE": self._reduce, "NEWOBJ": self._newobj, "NEWOBJ_EX": self._newobj_ex, "BUILD": self._build,
            "EXT1": self._extension, "EXT2": self._extension, "EXT4": self._extension,
            "PUT": self._put_line, "BINPUT": self._put, "LONG_BINPUT": self._put, "MEMOIZE": self._memoize,
            "GET": self._get_line, "BINGET": self._get, "LONG_BINGET": self._get,
            "DUP": self._dup, "MARK": self._mark,
        }  # fmt: skip
        file.seek(at)

    def run(self) -> bool:
        while self.count < OPCODES:
            code = self.file.read(1)
            opcode = _TABLE.get(code[0]) if code else None
            if opcode is None:
                return False
            self.count += 1
            self.at += 1
            argument = self._argument(opcode)
            if argument is None:
                return False
            if opcode.name == "STOP":
                return True
            handler = self.handlers.get(opcode.name)
            if handler is not None:
                handler(argument)
            elif opcode.name in _TEXTS:
                self.stack.append(_text(opcode.name, argument))
            else:
                self._move(opcode)
        return False

    def _argument(self, opcode: pickletools.OpcodeInfo) -> bytes | None:
        if opcode.arg is None:
            return b""
        count = opcode.arg.n
        if count == pickletools.UP_TO_NEWLINE:
            lines = [self.file.readline(LINE) for _ in range(2 if opcode.name in {"GLOBAL", "INST"} else 1)]
            self.at += sum(map(len, lines))
            return b"".join(lines) if all(line.endswith(b"\n") for line in lines) else None
        if count >= 0:
            data = self.file.read(count)
            self.at += len(data)
            return data if len(data) == count else None
        head = self.file.read(_PREFIXED[count])
        length = int.from_bytes(head, "little")
        self.at += len(head) + length
        if len(head) < _PREFIXED[count] or self.at > self.size:
            return None
        if opcode.name in _TEXTS and length <= NAME:
            return self.file.read(length)
        self.file.seek(self.at)
        return b"\xff"  # not UTF-8, so it is never taken for a name

    def _move(self, opcode: pickletools.OpcodeInfo) -> None:
        """Pop and push as many values as pickletools says that the opcode does."""
        wanted = [one for one in opcode.stack_before if one not in {pickletools.markobject, pickletools.stackslice}]
        if pickletools.markobject in opcode.stack_before:
            self._collect()
            if opcode.name in {"APPENDS", "SETITEMS", "ADDITEMS"}:
                return  # the container below keeps what it is
        elif opcode.name in {"APPEND", "SETITEM"}:
            del self.stack[-(len(wanted) - 1) :]
            return
        else:
            for _ in wanted:
                self._pop()
        self.stack.extend(None for _ in opcode.stack_after)

    def _collect(self) -> list[Value]:
        values: list[Value] = []
        while self.stack:
            value = self.stack.pop()
            if isinstance(value, Mark):
                break
            values.append(value)
        return values[::-1]

    def _pop(self) -> Value:
        return self.stack.pop() if self.stack else None

    def _act(self, verb: str, target: Name | None) -> None:
        action = Action(verb, target, 0)
        if action not in self.seen:  # each once, with the place where it came first
            self.seen.add(action)
            self.actions.append(Action(verb, target, self.at))

    def _import(self, name: Name) -> Name:
        self._act("import", name)
        return name

    def _call(self, verb: str, target: Value) -> None:
        name = target if isinstance(target, Name) else None
        self._act(verb, name)
        self.stack.append(Made(name))

    def _global(self, argument: bytes) -> None:
        self.stack.append(self._import(_name_of(argument)))

    def _stack_global(self, _argument: bytes) -> None:
        name, module = self._pop(), self._pop()
        literal = isinstance(name, str) and isinstance(module, str)
        self.stack.append(self._import(Name(str(module), str(name)) if literal else COMPUTED))

    def _inst(self, argument: bytes) -> None:
        self._collect()
        self._call("call", self._import(_name_of(argument)))

    def _obj(self, _argument: bytes) -> None:
        values = self._collect()
        self._call("call", values[0] if values else None)

    def _reduce(self, _argument: bytes) -> None:
        self._pop()
        self._call("call", self._pop())

    def _newobj(self, _argument: bytes) -> None:
        self._pop()
        self._call("make", self._pop())

    def _newobj_ex(self, _argument: bytes) -> None:
        self._pop()
        self._newobj(_argument)

    def _build(self, _argument: bytes) -> None:
        self._pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, Name):
            self._act("build", target)

    def _extension(self, _argument: bytes) -> None:
        self._act("extension", None)
        self.stack.append(None)

    def _put(self, argument: bytes) -> None:
        self.memo[int.from_bytes(argument, "little")] = self.stack[-1] if self.stack else None

    def _put_line(self, argument: bytes) -> None:
        self.memo[_number(argument)] = self.stack[-1] if self.stack else None

    def _memoize(self, _argument: bytes) -> None:
        self.memo[len(self.memo)] = self.stack[-1] if self.stack else None

    def _get(self, argument: bytes) -> None:
        self.stack.append(self.memo.get(int.from_bytes(argument, "little")))

    def _get_line(self, argument: bytes) -> None:
        self.stack.append(self.memo.get(_number(argument)))

    def _dup(self, _argument: bytes) -> None:
        self.stack.append(self.stack[-1] if self.stack else None)

    def _mark(self, _argument: bytes) -> None:
        self.stack.append(Mark())


def _name_of(lines: bytes) -> Name:
    module, name = lines.split(b"\n")[:2]
    try:
        return Name(module.decode("utf-8"), name.decode("utf-8"))
    except UnicodeDecodeError:
        return COMPUTED


def _number(line: bytes) -> int:
    try:
        return int(line.strip() or b"0", 10)
    except ValueError:
        return -1


_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS: Final = dict(
    zip((b"n", b"t", b"r", b"a", b"b", b"f", b"v"), (bytes([one]) for one in b"\n\t\r\a\b\f\v"), strict=True)
)


def _unescaped(found: re.Match[bytes]) -> bytes:
    """One escape of a bytes literal, by the unpickler's rules; Python's own decoder warns of unknown ones."""
    code = found[1]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    if code[:1].isdigit() and code[:1] < b"8":
        return bytes([int(code, 8) & 255])
    return _LETTERS.get(code, code if code in {b"\\", b"'", b'"'} else b"\\" + code)


def _text(opcode: str, argument: bytes) -> str | None:
    try:
        if opcode == "UNICODE":
            return argument[:-1].decode("raw-unicode-escape")
        if opcode == "STRING":  # within quotes, with Python's escapes
            return _ESCAPE.sub(_unescaped, argument.strip()[1:-1]).decode("latin-1")
        return argument.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
