"""A model card in the Hugging Face form: YAML between two ``---``, then Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelkeep.snapshot.record import shown_bytes


@dataclass(frozen=True, slots=True)
class About:
    """What a card says of a version when its author says nothing."""

    name: str
    framework: str
    signature: str
    parameters: int
    nbytes: int
    metrics: Mapping[str, float]
    licence: str | None
    lineage: Sequence[str]
    """Lines such as ``"run cnn, step 1200"``."""


def write_card(about: About) -> str:
    """Write the card of a version.

    The front matter has ``library_name``, ``license`` where one was given, ``tags`` and the names of the ``metrics``;
    its values are JSON, which is YAML too.

    >>> about = About("digits", "keras", "x: float32 [?, 64] -> y: float32 [?, 10]", 650, 2600, {"acc": 0.9}, None, [])
    >>> print(write_card(about).splitlines()[1])
    library_name: "keras"
    """
    front = {
        "library_name": about.framework,
        **({"license": about.licence} if about.licence else {}),
        "tags": ["modelkeep", about.framework],
        **({"metrics": sorted(about.metrics)} if about.metrics else {}),
    }
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# {about.name}", ""]
    lines += [f"- **Takes and gives**: `{about.signature}`"]
    lines += [f"- **Parameters**: {about.parameters:,} ({shown_bytes(about.nbytes)})"]
    lines += [f"- **Comes from**: {line}" for line in about.lineage]
    if about.metrics:
        lines += ["", "| metric | value |", "| --- | --- |"]
        lines += [f"| {name.replace('|', '/')} | {value:.6g} |" for name, value in sorted(about.metrics.items())]
    return "\n".join([*lines, ""])
