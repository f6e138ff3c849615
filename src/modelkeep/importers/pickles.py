"""A pickle as data: a machine for the few operations that weights need, which can call nothing.

`pickle.Unpickler` with a guarded ``find_class`` still hashes, copies and grows what the file tells it to. Here every
operation is ours, each is counted, and a global is a name, never an object of Python.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat, Unsafe

_OPERATIONS = 20
"""Operations for each of the budget's nodes; a tensor of a state dict takes about thirty."""

_KEY_BYTES = 1 << 16
_INT_BITS = 64
_MAX_NAME = 200

_PUSHED = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "UNICODE",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
    ]
)
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SINGLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a pickle, such as ``torch.FloatStorage``; nothing is imported for it."""

    name: str


class _Mark:
    """Where a group of arguments begins on the stack."""


_MARK = _Mark()


class Machine:
    """Runs one pickle. ``call(name, arguments)`` makes the value of an allowed call, ``refer(id)`` of a storage."""

    def __init__(
        self,
        where: str,
        budget: Budget,
        call: Callable[[str, tuple[Any, ...]], Any],
        refer: Callable[[Any], Any],
        allowed: frozenset[str],
    ) -> None:
        self._where, self._budget, self._call, self._refer, self._allowed = where, budget, call, refer, allowed
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """The value that the pickle describes, of dicts, lists, tuples, plain values and what ``call`` makes.

        Raises:
            Unsafe: it names a global that is not allowed, or an operation that weights have no need of.
            Damaged: it is no whole pickle.
            LimitExceeded: more operations than the budget allows.
        """
        count, limit = 0, self._budget.nodes * _OPERATIONS
        try:
            for operation, argument, _ in pickletools.genops(file):
                count += 1
                if count > limit:
                    raise LimitExceeded(
                        f"{self._where}: its pickle has more than {limit:,} operations; if you trust its source, "
                        f"raise the budget: Budget(nodes={self._budget.nodes * 4})"
                    )
                if operation.name == "STOP":
                    return self._pop()
                self._step(operation.name, argument)
        except (ValueError, IndexError, TypeError, OverflowError, KeyError, AttributeError) as error:
            raise Damaged(f"{self._where}: this is no whole pickle: {error!s:.200}", self._where) from None
        raise Damaged(f"{self._where}: the pickle is cut off", self._where)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _group(self) -> list[Any]:
        """What lies above the last mark."""
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                group = self._stack[index + 1 :]
                del self._stack[index:]
                return group
        raise ValueError("a group without a mark")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PUSHED:
            stack.append(self._plain(argument))
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._peek()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in _SINGLES:
            stack.append(tuple([self._pop() for _ in range(_SINGLES[name])][::-1]))
        elif name in ("TUPLE", "LIST", "DICT"):
            self._close(name)
        elif name in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            self._fill(name)
        elif name in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"):
            self._act(name, argument)
        elif name not in ("PROTO", "FRAME"):
            raise Unsafe(f"{self._where}: its pickle has the operation {name}, which weights have no need of")

    def _peek(self) -> Any:
        if self._stack[-1] is _MARK:
            raise ValueError("a mark where a value should be")
        return self._stack[-1]

    def _plain(self, value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > _INT_BITS:
            raise LimitExceeded(f"{self._where}: its pickle has a number of {value.bit_length():,} bits")
        return value

    def _close(self, name: str) -> None:
        group = self._group()
        if name == "DICT":
            fresh: dict[Any, Any] = {}
            self._set(fresh, group)
            self._stack.append(fresh)
        else:
            self._stack.append(tuple(group) if name == "TUPLE" else group)

    def _fill(self, name: str) -> None:
        group = (
            [self._pop()]
            if name == "APPEND"
            else [self._pop(), self._pop()][::-1]
            if name == "SETITEM"
            else self._group()
        )
        into = self._peek()
        if name.startswith("SET"):
            self._set(into, group)
        elif isinstance(into, list):
            into.extend(group)
        else:
            raise ValueError("items for what is no list")

    def _set(self, into: Any, group: list[Any]) -> None:
        if not isinstance(into, dict) or len(group) % 2:
            raise ValueError("items for what is no dict")
        for key, value in zip(group[::2], group[1::2], strict=True):
            check_key(self._where, key)
            into[key] = value

    def _act(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "GLOBAL":
            stack.append(self._allow(str(argument).replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if not isinstance(attribute, str) or not isinstance(module, str):
                raise ValueError("a name that is no text")  # and whose own text may be without end
            stack.append(self._allow(f"{module:.{_MAX_NAME}}.{attribute:.{_MAX_NAME}}"))
        elif name == "BINPERSID":
            stack.append(self._refer(self._pop()))
        elif name == "BUILD":  # attributes of a dict or a tensor: beside the weights, so they are passed over
            self._pop()
            self._peek()
        else:
            arguments, called = self._pop(), self._pop()
            if not isinstance(called, Global) or not isinstance(arguments, tuple):
                raise Unsafe(f"{self._where}: its pickle calls what is no name")
            stack.append(self._call(called.name, arguments))

    def _allow(self, name: str) -> Global:
        if name not in self._allowed:
            raise refusal(self._where, name)
        return Global(name)


def check_key(where: str, key: Any) -> None:
    """Refuse keys whose hash may cost much: a tuple of tuples of tuples can take for ever.

    Raises:
        UnknownFormat: a key that is no text, no number and no short tuple of those.
        LimitExceeded: a very long one.
    """
    parts = key if isinstance(key, tuple) and len(key) <= 16 else (key,)
    for part in parts:
        if not isinstance(part, (str, int, float, bytes, type(None))):
            raise UnknownFormat(f"{where}: a key of type {type(part).__name__}; keys are text or numbers here")
        if isinstance(part, (str, bytes)) and len(part) > _KEY_BYTES:
            raise LimitExceeded(f"{where}: a key of {len(part):,} characters")


def refusal(where: str, name: str) -> Unsafe:
    """The error for a pickle that is more than weights; the way out is told."""
    return Unsafe(
        f"{where}: its pickle names {name!r:.{_MAX_NAME}}, and loading it could run that; save weights alone, "
        "torch.save(model.state_dict(), path), where you trust the file"
    )


def looks_like(head: bytes) -> bool:
    """Whether bytes begin as a pickle of protocol 2 or later does."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def first_global(data: bytes) -> str:
    """The first name in a pickle, for a message; an empty text where there is none or it is no pickle."""
    try:
        texts: list[str] = []
        for operation, argument, _ in pickletools.genops(io.BytesIO(data)):
            if operation.name == "GLOBAL":
                return str(argument).replace(" ", ".", 1)
            if operation.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            if isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError, OverflowError):
        pass
    return ""
