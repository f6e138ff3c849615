"""What a training ran in: packages, platform, code and command, recorded once per attempt without secrets."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from modelkeep.training.redaction import redact, redact_arguments, redact_variable
from modelkeep.values import Json

DIFF_BYTES = 256 << 10
"""Longer diffs are cut: 256 KiB."""

_VARIABLES = (
    "CONDA_DEFAULT_ENV",
    "CUDA_",
    "CUBLAS_",
    "JAX_",
    "KERAS_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "PYTHONHASHSEED",
    "PYTORCH_",
    "SLURM_",
    "TF_",
    "TORCH_",
    "VIRTUAL_ENV",
    "XLA_",
)
"""Variables whose names begin so are recorded; the others are nobody's business."""

_GIT_SECONDS = 5.0


def capture() -> dict[str, Json]:
    """Return what this process runs in, as JSON: ``python``, ``platform``, ``packages``, ``git``, ``command``, ….

    Credentials are taken out of the command line, the variables, the remote's address and the diff (see
    `redaction`); the diff is cut at 256 KiB. Nothing is imported. Where there is no git, ``git`` is None.

    >>> sorted(capture())
    ['command', 'directory', 'git', 'host', 'packages', 'platform', 'process', 'python', 'variables']
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "process": os.getpid(),
        "directory": str(_directory()),
        "command": [*redact_arguments(getattr(sys, "orig_argv", sys.argv))],
        "packages": {**_packages(_path_state())},
        "variables": {**_variables()},
        "git": _git(_code_directory()),
    }


def _path_state() -> tuple[tuple[str, int], ...]:
    """The folders that packages are found in, and when something was last installed there or removed."""
    found = []
    for place in sys.path:
        with suppress(OSError):
            found.append((place, os.stat(place or ".").st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=1)
def _packages(_: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Every installed distribution and its version; a distribution without a readable name is left out."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name and name not in found:  # the first one on the path is the one that imports find
            found[name] = distribution.version
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _variables() -> dict[str, str]:
    return {name: redact_variable(name, os.environ[name]) for name in sorted(os.environ) if name.startswith(_VARIABLES)}


def _directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("(deleted)")


def _code_directory() -> Path:
    """Where the script that runs lies; the working directory at a prompt."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve().parent if file else _directory()


def _git(directory: Path) -> dict[str, Json] | None:
    """Commit, remote and uncommitted changes of the repository that ``directory`` is in."""
    commit = _ask_git(directory, ["rev-parse", "HEAD"])
    if commit is None:
        return None
    diff = _ask_git(directory, ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD"], limit=DIFF_BYTES + 1)
    remote = _ask_git(directory, ["config", "--get", "remote.origin.url"])
    status = _ask_git(directory, ["status", "--porcelain"], limit=1 << 16)
    return {
        "commit": commit.strip(),
        "branch": (_ask_git(directory, ["rev-parse", "--abbrev-ref", "HEAD"]) or "").strip() or None,
        "remote": redact(remote.strip()) if remote else None,
        "dirty": bool(status) if status is not None else None,
        "untracked": [*[line[3:] for line in (status or "").splitlines() if line.startswith("??")][:200]],
        "diff": redact(diff[:DIFF_BYTES]) if diff else None,
        "diff_cut": diff is not None and len(diff) > DIFF_BYTES,
    }


def _ask_git(directory: Path, arguments: Sequence[str], *, limit: int = 1 << 16) -> str | None:
    """The first ``limit`` bytes that git prints, or None where there is no git, no repository or no answer.

    The repository may be a stranger's: none of the programs that its configuration names is run.
    """
    command = ["git", "-C", str(directory), "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_SECONDS, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout[:limit].decode("utf-8", "replace") if answer.returncode == 0 else None


def version() -> str:
    """Return the version of modelkeep that is installed.

    >>> version()[0].isdigit()
    True
    """
    try:
        return metadata.version("modelkeep")
    except metadata.PackageNotFoundError:  # run from its sources
        return "0+source"
