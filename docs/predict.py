"""Predict with a published model, without modelkeep and without the framework that trained it.

``python predict.py KEEP MODEL[@VERSION or @ALIAS]`` finds the version, reads its weights (see `read_snapshot`), asks a
network of two Dense layers, written in numpy, the examples that were published with it, and compares the answers.
"""

import json
import sys
from pathlib import Path

import numpy as np
from read_snapshot import read_snapshot


def newest(folder: Path) -> dict:
    """The last document of a journal: files are named so that the newest comes first."""
    return json.loads(min(folder.glob("*.json")).read_bytes())


def find_version(keep: str, ref: str) -> dict:
    """The document of a version: by its number, by an alias, or the newest."""
    name, _, rev = ref.partition("@")
    model = Path(keep, "models", name)
    if not rev:
        return newest(model / "versions")
    number = rev if rev.isdigit() else newest(model / "aliases" / rev)["version"]
    return json.loads((model / "versions" / f"{9_999_999_999 - int(number):010d}.json").read_bytes())


def predict(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The network: Dense with relu, then Dense with softmax."""
    hidden = np.maximum(x @ weights["model/hidden/kernel"] + weights["model/hidden/bias"], 0)
    scores = hidden @ weights["model/digit/kernel"] + weights["model/digit/bias"]
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


if __name__ == "__main__":
    version = find_version(sys.argv[1], sys.argv[2])
    tree, arrays = read_snapshot(sys.argv[1], version["snapshot"])
    print("takes", tree["signature"]["inputs"], "\ngives", tree["signature"]["outputs"])
    answers = predict(arrays, arrays["examples/inputs"])
    print("digits", answers.argmax(axis=-1), "largest difference", abs(answers - arrays["examples/outputs"]).max())
    assert np.allclose(answers, arrays["examples/outputs"], atol=1e-6)
