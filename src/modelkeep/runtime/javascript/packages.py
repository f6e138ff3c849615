"""Packages of npm that run exports: where they are, in which version, and what brings them."""

import json
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

MODULES = "MODELKEEP_NODE_MODULES"
"""Names the folder ``node_modules`` where it is neither beside the environment of Python nor above this folder."""
VERSIONS = {
    "@tensorflow/tfjs-core": "4.22.0",
    "@tensorflow/tfjs-converter": "4.22.0",
    "@tensorflow/tfjs-backend-cpu": "4.22.0",
    "@tensorflow/tfjs-backend-wasm": "4.22.0",
    "@tensorflow/tfjs-backend-webgl": "4.22.0",
    "onnxruntime-web": "1.30.0",
    "@litertjs/core": "2.5.3",
}
"""Those that modelkeep was tested with."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def node() -> str | None:
    """The path of Node, None where it is not installed."""
    return shutil.which("node")


def browser() -> str | None:
    """The path of a browser of the Chromium family, None where there is none."""
    return next((found for found in map(shutil.which, _BROWSERS) if found is not None), None)


def modules(package: str) -> Path | None:
    """The folder ``node_modules`` that has a package."""
    given = os.environ.get(MODULES)
    here = Path.cwd()
    beside = [folder / "node_modules" for folder in (Path(sys.prefix), here, *here.parents)]
    return next((one for one in ([Path(given)] if given else beside) if (one / package).is_dir()), None)


@lru_cache
def installed(packages: tuple[str, ...]) -> str | None:
    """The version of the first package, None where one of them is not there."""
    folders = [modules(name) for name in packages]
    if None in folders:
        return None
    try:
        document = json.loads((folders[0] / packages[0] / "package.json").read_text("utf-8"))  # type: ignore[operator]
    except (OSError, ValueError):
        return None
    return str(document.get("version"))


def install(packages: tuple[str, ...]) -> str:
    """What brings packages.

    >>> install(("onnxruntime-web",))
    'npm install onnxruntime-web@1.30.0'
    """
    return f"npm install {' '.join(f'{name}@{VERSIONS[name]}' for name in packages)}"
