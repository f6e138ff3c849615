"""Whatever a crash leaves of a keep: nothing acknowledged is lost, nothing wrong is loaded, and training goes on."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Self

import pytest

from .campaign import MODELS, SEED, Campaign, Outcome
from .choices import QUICK, THOROUGH, Effort
from .keep_check import examine, judge
from .operations import Resize
from .programs import SCENARIOS
from .recording import Recording, record
from .strace import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "strace works")

Recorder = Callable[..., Recording]

SAMPLE = {"kill": 40, "ext4": 40, "weak": 60}
"""States of each scenario that are looked at in every run of the tests; `-m torture` looks at all."""

FEW = {"kill": 12, "ext4": 12, "weak": 16}
"""Of states of many MiB."""

MANY = {"kill": 200, "ext4": 200, "weak": 400}
"""Of states of many MiB, under `-m torture`."""

AT_LEAST = 20_000
"""Distinct states of all scenarios, under the three models."""


class AtOnce:
    """Does in one thread what the reader does in several: small states are read sooner so."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of small loads and saves: they wait neither for threads nor for others' work.

    The background writer steps back behind a training; here there is none.
    """
    monkeypatch.setattr("modelkeep.backend.workers._NICE", 0, raising=False)
    monkeypatch.setattr("modelkeep.store.load.ThreadPoolExecutor", AtOnce, raising=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """Records a scenario, each once: ``recorded(scenario, *what_is_broken)``."""

    @cache
    def record_once(scenario: str, *broken: str) -> Recording:
        folder = tmp_path_factory.mktemp(scenario)
        disk = folder / "disk"
        disk.mkdir()
        program = [sys.executable, "-m", "tests.crash.programs"]
        before = subprocess.run(
            [*program, "before", scenario, str(disk)], cwd=Path(__file__).parents[2], capture_output=True, check=False
        )
        assert before.returncode == 0, before.stderr.decode()
        return record([*program, "act", scenario, str(disk), *broken], disk, folder / "log")

    return record_once


def explored(
    recording: Recording, model: str, evidence: Path, effort: Effort = QUICK, at_most: int | None = None
) -> Outcome:
    return Campaign(examine, judge, evidence=evidence / "state").run(recording, model, effort, at_most=at_most)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_in_a_sample_of_the_states(
    recorded: Recorder, tmp_path: Path, scenario: str, model: str
) -> None:
    at_most = (FEW if scenario == "large" else SAMPLE)[model]
    outcome = explored(recorded(scenario), model, tmp_path, at_most=at_most)
    assert not outcome.told, f"{len(outcome.told)} faults in {outcome.states} states, such as {outcome.told[:3]}"
    assert outcome.states >= 12


@pytest.mark.torture
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_in_any_state(
    recorded: Recorder, tmp_path: Path, tried: Callable[..., None], scenario: str
) -> None:
    told: list[str] = []
    for model in MODELS:
        at_most = MANY[model] if scenario == "large" else None
        outcome = explored(recorded(scenario), model, tmp_path / model, THOROUGH, at_most)
        wrong = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.faults.items()))
        tried(outcome.states, f"states after a crash: {scenario}, {model}", wrong)
        told += outcome.told
    assert not told, f"{len(told)} faults, such as {told[:3]}"


@pytest.mark.torture
def test_there_are_enough_states(recorded: Recorder) -> None:
    total = 0
    for scenario in SCENARIOS.keys() - {"large"}:
        recording = recorded(scenario)
        for states in MODELS.values():
            total += len({state.key for _, state in states(recording.trace, recording.before, THOROUGH, SEED)})
    assert total >= AT_LEAST


@pytest.mark.parametrize(
    ("broken", "model", "scenario"),
    [
        ("files", "ext4", "later"),
        ("files", "weak", "later"),
        ("folders", "weak", "first"),
        ("folders", "ext4", "finish"),
    ],
)
def test_a_library_that_forgets_a_sync_is_caught(
    recorded: Recorder, tmp_path: Path, broken: str, model: str, scenario: str
) -> None:
    outcome = explored(recorded(scenario, broken), model, tmp_path, at_most=SAMPLE[model])
    assert outcome.faults, "the checks do not see what is lost"


def test_the_scenarios_do_what_they_are_named_after(recorded: Recorder) -> None:
    """A scenario that goes another way than it should proves nothing."""
    for scenario in ("streamed", "large"):
        actions = [one.action for one in recorded(scenario).trace.operations]
        assert any(isinstance(one, Resize) and one.at_least for one in actions), scenario
    after = {scenario: [path for path, _ in recorded(scenario).after.state().files] for scenario in SCENARIOS}
    before = {scenario: [path for path, _ in recorded(scenario).before.state().files] for scenario in SCENARIOS}
    for scenario in ("resume", "gc", "retention"):
        assert any("/shards/" in path for path in set(before[scenario]) - set(after[scenario])), scenario
    assert any("/dropped/" in path for path in after["retention"])
    assert any("/finished/" in path for path in after["finish"])
    assert any("/runs/fork/checkpoints/" in path for path in after["fork"])
