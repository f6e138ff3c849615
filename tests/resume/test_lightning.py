"""``mk.lightning.Checkpoint``: trainings with Lightning that are killed end with the bits of one left alone."""

import json
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from killing import Program
from torch.utils.data import DataLoader, Sampler, TensorDataset

import modelkeep as mk
from modelkeep.errors import NotExact, StateMismatch, UnsupportedState, UsageError

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"

# What is set up, and how many checkpoints it makes at least.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "a scheduler of steps": ({}, 24),
    "a plateau, and validations inside an epoch": (
        {"plateau": 1, "every": 1, "trainer": {"val_check_interval": 5}},
        40,
    ),
    "workers, weighted rows, accumulated gradients": (
        {"every": 1, "workers": 2, "weighted": 1, "trainer": {"accumulate_grad_batches": 3}},
        16,
    ),
    "a stream without a length, optimized by hand": ({"every": 1, "manual": 1, "stream": 1, "workers": 2}, 30),
    "so many steps, validated by steps": (
        {"every": 3, "trainer": {"max_steps": 40, "check_val_every_n_epoch": None, "val_check_interval": 7}},
        13,
    ),
    "stopped early": ({"patience": 1}, 12),
}
IN_CI = "a plateau, and validations inside an epoch"
"""The others are left to torture, so that `make test` stays within its time."""


def program(case: str) -> Program:
    return Program(HERE / "lightning_case.py", "net", before=(json.dumps(CASES[case][0]),))


@pytest.mark.parametrize(
    "case", [pytest.param(one, marks=() if one == IN_CI else pytest.mark.torture) for one in CASES]
)
def test_a_training_that_is_killed_ends_with_the_same_bits(case: str, tmp_path: Path) -> None:
    program(case).kill_and_compare(tmp_path, 1, last=CASES[case][1])
    assert [(run.state, run.exact) for run in mk.open(tmp_path / "killed" / "0").runs()] == [("finished", True)]


@pytest.mark.torture
@pytest.mark.parametrize("case", CASES)
def test_twenty_kills_change_no_bit(case: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    program(case).kill_and_compare(tmp_path, 20, last=CASES[case][1])
    tried(20, f"SIGKILLs of a training with Lightning: {case}", "")


def test_the_example_is_stopped_by_sigterm_and_goes_on(tmp_path: Path) -> None:
    example = Program(DOCS / "train_lightning.py", "digits", after=("3",))
    whole = example.to_its_end(tmp_path / "whole")
    assert example.stopped(tmp_path / "stopped", signal.SIGTERM, 3)
    with mk.open(tmp_path / "stopped", create=False).run("digits") as run:
        assert run.resumed[0].reason == "signal"
    assert example.to_its_end(tmp_path / "stopped") == whole
    assert len((DOCS / "train_lightning.py").read_text().splitlines()) < 60


# In this process


class Line(pl.LightningModule):
    """The smallest module; ``keeps`` is added to Lightning's checkpoints."""

    def __init__(self, keeps: Any = None) -> None:
        super().__init__()
        self.layer, self.keeps = torch.nn.Linear(2, 1), keeps

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.keeps is not None:
            checkpoint["mine"] = self.keeps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


ROWS = TensorDataset(torch.arange(16.0).reshape(8, 2))


@pytest.fixture(autouse=True)
def _lightning_warns() -> Iterator[None]:
    with warnings.catch_warnings():
        for module in ("lightning", "torch"):
            warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
        yield


def fit(
    folder: Path, data: Any, module: Any = None, *, exact: bool = True, ckpt_path: Path | None = None, **options: Any
) -> Any:
    run = mk.open(folder / "keep").run("line", seed=1)
    checkpoint = mk.lightning.Checkpoint(run, checkpoint=mk.every(steps=1), exact=exact)
    trainer = pl.Trainer(
        callbacks=[checkpoint], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", devices=1, **{"max_epochs": 2, **options},
    )  # fmt: skip
    module = module or Line()
    try:
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=False)
    finally:
        run.close()
    return module


def test_metrics_checkpoints_and_the_end_are_recorded(tmp_path: Path) -> None:
    module = fit(tmp_path, DataLoader(ROWS, batch_size=4, shuffle=True))
    keep = mk.open(tmp_path / "keep")
    steps = [(one.step, one.epoch, one.reason) for one in reversed(keep.store.run("line").checkpoints(dropped=True))]
    assert steps == [(0, 0, "start"), (1, 0, "policy"), (2, 1, "policy"), (3, 1, "policy"), (4, 2, "final")]
    run = keep.run("line")
    assert run.finished == {"epochs": 2, "stopped": False}
    assert [(row.step, row.epoch) for row in run.metrics()] == [(2, 0), (4, 1)]
    assert run.metrics()[0].values.keys() == {"loss", "loss_step", "loss_epoch"}
    finished = fit(tmp_path, DataLoader(ROWS, batch_size=4, shuffle=True))
    assert torch.equal(finished.layer.weight, module.layer.weight)
    longer = fit(tmp_path, DataLoader(ROWS, batch_size=4, shuffle=True), max_epochs=3)
    assert not torch.equal(longer.layer.weight, module.layer.weight)
    whole = fit(tmp_path / "whole", DataLoader(ROWS, batch_size=4, shuffle=True), max_epochs=3)
    assert torch.equal(longer.layer.weight, whole.layer.weight)


def test_a_checkpoint_of_lightning_is_taken_over_at_the_first_start_alone(tmp_path: Path) -> None:
    loader = DataLoader(ROWS, batch_size=4)
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    old = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, enable_model_summary=False, **options)
    whole = Line()
    old.fit(whole, loader)
    old.save_checkpoint(tmp_path / "old.ckpt")
    longer = pl.Trainer(max_epochs=3, enable_checkpointing=False, enable_model_summary=False, **options)
    longer.fit(whole, loader, ckpt_path=tmp_path / "old.ckpt", weights_only=False)
    taken = fit(tmp_path, loader, max_epochs=3, ckpt_path=tmp_path / "old.ckpt")
    assert torch.equal(taken.layer.weight, whole.layer.weight)
    summary = mk.open(tmp_path / "keep").runs()[0]
    assert (summary.exact, summary.step, summary.epoch) == (False, 6, 3)
    with pytest.raises(UsageError, match="leave ckpt_path out"):
        fit(tmp_path, loader, max_epochs=4, ckpt_path=tmp_path / "old.ckpt")
    assert fit(tmp_path, loader, max_epochs=4).layer.weight.shape == (1, 2)


def test_data_that_cannot_be_opened_anywhere_are_refused_or_marked(tmp_path: Path) -> None:
    loaders = {"one": DataLoader(ROWS, batch_size=4), "two": DataLoader(ROWS, batch_size=4)}
    module = Line()
    module.training_step = lambda batch, index=0: module.layer(batch["one"][0]).mean()
    with pytest.raises(NotExact, match="the training data are of dict; one torch DataLoader can be resumed"):
        fit(tmp_path, loaders, module)
    with pytest.warns(RuntimeWarning, match="will not resume bit for bit"):
        fit(tmp_path, loaders, module, exact=False)
    assert not mk.open(tmp_path / "keep").runs()[0].exact


def test_an_order_that_no_seed_decides_and_a_clock_are_refused(tmp_path: Path) -> None:
    fresh = np.random.default_rng()
    unseeded = DataLoader(
        ROWS, batch_size=4, collate_fn=lambda rows: [torch.stack([one[0] for one in rows]) + fresh.random()]
    )
    with pytest.raises(NotExact, match="differ when they are read twice"):
        fit(tmp_path, unseeded)
    with pytest.raises(NotExact, match="a clock does not repeat itself"):
        fit(tmp_path, DataLoader(ROWS, batch_size=4), val_check_interval="00:00:01:00", check_val_every_n_epoch=None)


def test_a_sampler_without_an_end_is_read_piece_by_piece(tmp_path: Path) -> None:
    class Endless(Sampler):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield int(torch.randint(8, ()))

    fit(tmp_path, DataLoader(ROWS, batch_size=4, sampler=Endless()), limit_train_batches=3, max_epochs=2)
    run = mk.open(tmp_path / "keep").runs()[0]
    assert (run.step, run.epoch, run.exact) == (6, 2, True)


def test_what_no_state_can_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedState, match=r"lightning/mine.*on_save_checkpoint"):
        fit(tmp_path, DataLoader(ROWS, batch_size=4), Line(keeps={1, 2}))


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with mk.open(tmp_path / "keep").run("line", seed=1) as run:
        run.save({"w": np.ones(2)}, step=1, epoch=0, wait=True)
    with pytest.raises(StateMismatch, match="another kind of training"):
        fit(tmp_path, DataLoader(ROWS, batch_size=4))
    with pytest.raises(UsageError, match="checkpoint"):
        mk.lightning.Checkpoint(run, checkpoint=3)  # type: ignore[arg-type]
