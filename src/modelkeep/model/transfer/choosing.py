"""What the caller names in a model: which weights are expected, which are left alone, which may change their size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from modelkeep.errors import NotFound, UsageError
from modelkeep.model.transfer.resizing import Resize
from modelkeep.state.paths import Pattern

Texts = str | Sequence[str]


class Patterns:
    """What the caller names in the model; each pattern must name something."""

    def __init__(self, what: str, texts: Texts | None) -> None:
        self.what, self.given = what, texts is not None
        listed = [texts] if isinstance(texts, str) else list(texts or ())
        self.patterns = [Pattern(text) for text in listed]
        self._used: set[str] = set()

    def matches(self, path: str) -> bool:
        """Whether one of them names ``path``, or a container of it."""
        hits = [pattern.text for pattern in self.patterns if any(pattern.matches(part) for part in _containers(path))]
        self._used.update(hits)
        return bool(hits)

    def check_used(self, paths: Iterable[str]) -> None:
        """Raise NotFound for a pattern that has matched nothing."""
        unused = [pattern.text for pattern in self.patterns if pattern.text not in self._used]
        if unused:
            known = list(paths)
            near = get_close_matches(unused[0], known, 3, 0.4) or known[:3]
            raise NotFound(f"{self.what}: {unused[0]!r} matches nothing in the model; there is {', '.join(near)}")


@dataclass(slots=True)
class Choice:
    """What a caller asks for; ``layouts``: whether torch's layouts and other precisions are adapted."""

    only: Patterns
    skip: Patterns
    layouts: bool
    sizes: dict[str, tuple[Patterns, Resize]]

    def wants(self, path: str) -> bool:
        """Whether a weight is expected to be loaded."""
        included = self.only.matches(path) if self.only.given else True
        return included and not self.skip.matches(path)

    def resize(self, path: str) -> Resize | None:
        """How a weight may change its size, if at all."""
        return next((how for patterns, how in self.sizes.values() if patterns.matches(path)), None)


def sizes_of(adapt: bool | Mapping[str, Resize]) -> Iterable[tuple[str, tuple[Patterns, Resize]]]:
    """Each pattern of ``adapt`` and what it asks for; raises UsageError for what is no such mapping."""
    if not isinstance(adapt, bool | Mapping):
        raise UsageError(f"adapt is True, False or a mapping of patterns to ways, not {type(adapt).__name__}")
    return (
        {}.items()
        if isinstance(adapt, bool)
        else [(text, (Patterns("adapt", text), how)) for text, how in adapt.items()]
    )


def _containers(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
