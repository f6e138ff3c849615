"""The table of other libraries' savers: what they lose is counted, whatever their loads do."""

from pathlib import Path

import pytest

from .campaign import Campaign
from .choices import QUICK
from .peer_savers import Safetensors, found_in
from .peers import Looker, judge, recorded, row
from .strace import missing


def test_what_a_load_finds_is_told_apart(tmp_path: Path) -> None:
    saver = Safetensors(tmp_path)
    assert found_in(saver).startswith("lost")
    found = []
    for number in (1, 2, 3):
        saver.save(number)
        found.append(found_in(saver).split(":")[0])
    assert found == ["old", "new", "wrong"]


def test_a_load_that_kills_its_process_is_a_loss_and_the_next_one_is_not(tmp_path: Path) -> None:
    Safetensors(tmp_path).save(1)
    with Looker("safetensors") as look:
        assert look(tmp_path) == "old"
        assert look._process is not None
        look._process.kill()
        look._process.wait()
        assert look(tmp_path) == "lost: the load: the process died"
        assert look(tmp_path) == "old"


@pytest.mark.skipif(bool(missing()), reason=missing() or "strace works")
def test_a_saver_without_a_sync_is_seen_to_lose_what_it_acknowledged(tmp_path: Path) -> None:
    recording = recorded("safetensors", tmp_path)
    with Looker("safetensors") as look:
        campaign = Campaign(look, judge, copied=True)
        outcomes = {model: campaign.run(recording, model, QUICK, at_most=60) for model in ("kill", "weak")}
    assert not outcomes["kill"].faults
    assert outcomes["weak"].faults["lost"] > 0
    assert outcomes["weak"].faults["gone"] > 0
    assert row("safetensors", outcomes).startswith("| safetensors | ")
