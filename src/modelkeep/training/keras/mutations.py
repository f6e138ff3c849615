"""Which attributes of ``self`` the methods of a class change, read from its source.

Used to name what a resume would lose before training begins. It reads, it never runs: an attribute that is changed
by reflection or through an alias is not seen.
"""

import ast
import inspect
import textwrap
from collections.abc import Sequence

_MUTATORS = frozenset(
    [
        "append",
        "extend",
        "insert",
        "remove",
        "pop",
        "clear",
        "update",
        "setdefault",
        "add",
        "discard",
        "sort",
        "reverse",
        "popitem",
        "appendleft",
        "write",
        "writerow",
        "assign",
        "assign_add",
        "assign_sub",
        "shuffle",
        "permutation",
        "random",
        "integers",
        "normal",
        "uniform",
        "choice",
    ]
)


def attributes_changed_by(cls: type, methods: Sequence[str] | None, *, stop_at: type) -> set[str]:
    """Return the names that ``methods`` of ``cls`` change on ``self``, and the methods that these call.

    What hangs on ``self.model`` comes as ``model.NAME``; its variables are left out.

    Args:
        cls: the class whose source is read.
        methods: the names to begin with; None for every method but ``__init__`` and the setters of a framework.
        stop_at: classes from this one up are not read (the framework's own base).

    Raises: nothing; a class whose source cannot be read gives an empty set.

    >>> class Counter:
    ...     def __init__(self): self.seen = 0
    ...     def on_epoch_end(self): self.seen += 1
    >>> sorted(attributes_changed_by(Counter, None, stop_at=object))  # doctest: +SKIP
    ['seen']
    """
    bodies = _methods_of(cls, stop_at)
    pending = list(methods) if methods is not None else [name for name in bodies if name not in _CONSTRUCTION]
    changed: set[str] = set()
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name not in bodies:
            continue
        seen.add(name)
        visitor = _Visitor(bodies[name])
        changed |= visitor.changed
        pending += visitor.called
    return changed


_CONSTRUCTION = {"__init__", "set_model", "set_params", "get_config", "from_config"}


def _methods_of(cls: type, stop_at: type) -> dict[str, ast.FunctionDef]:
    bodies: dict[str, ast.FunctionDef] = {}
    for base in cls.__mro__:
        if base is stop_at or base is object:
            break
        for name, method in vars(base).items():
            if inspect.isfunction(method) and name not in bodies:
                try:
                    node = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
                except (OSError, SyntaxError, IndexError, TypeError):
                    continue
                if isinstance(node, ast.FunctionDef) and node.args.args:
                    bodies[name] = node
    return bodies


class _Visitor(ast.NodeVisitor):
    def __init__(self, function: ast.FunctionDef) -> None:
        self._self = function.args.args[0].arg
        self.changed: set[str] = set()
        self.called: list[str] = []
        self.visit(function)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._note(target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._note(node.target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._note(node.target)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._note(node.target)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._note(target)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = self._attribute(function.value)
            if owner is not None and function.attr in _MUTATORS and not _is_variable_of_model(owner, function.attr):
                self.changed.add(owner)
            if isinstance(function.value, ast.Name) and function.value.id == self._self:
                self.called.append(function.attr)
            if function.attr == "shuffle":
                self.changed |= {name for name in map(self._attribute, node.args) if name is not None}
        elif isinstance(function, ast.Name) and function.id in ("next", "setattr"):
            self.changed |= {name for name in map(self._attribute, node.args) if name is not None}
        self.generic_visit(node)

    def _note(self, target: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._note(element)
            return
        name = self._attribute(target)
        if name is not None:
            self.changed.add(name)

    def _attribute(self, node: ast.expr) -> str | None:
        """The first attribute of ``self`` in ``self.a``, ``self.a[i]``, ``self.a.b[i].c``; of a model two of them."""
        names: list[str] = []
        while isinstance(node, (ast.Subscript, ast.Attribute, ast.Starred)):
            if isinstance(node, ast.Attribute):
                names.append(node.attr)
            node = node.value
        if not names or not isinstance(node, ast.Name) or node.id != self._self:
            return None
        return ".".join(names[:-3:-1]) if names[-1] == "model" else names[-1]


def _is_variable_of_model(owner: str, method: str) -> bool:
    return owner.startswith("model.") and method.startswith("assign")
