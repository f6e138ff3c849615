"""``mk.transformers.train``: a Trainer that is killed ends with the bits of one left alone."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from killing import Program
from torch.utils.data import IterableDataset

import modelkeep as mk
from modelkeep.errors import NotExact, StateMismatch, UsageError

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"

CASES: dict[str, tuple[dict[str, Any], int]] = {
    "a schedule with evaluations": ({}, 17),
    "accumulated gradients": ({"every": 1, "args": {"gradient_accumulation_steps": 3}}, 12),
    "workers, so many steps": ({"args": {"dataloader_num_workers": 2, "max_steps": 25}}, 13),
    "stopped early": ({"every": 1, "patience": 1, "args": {"eval_steps": 2, "learning_rate": 0.05}}, 19),
    "all at the ends of epochs": (
        {
            "every": 1,
            "args": {"eval_strategy": "epoch", "logging_strategy": "epoch", "train_sampling_strategy": "sequential"},
        },
        33,
    ),
}


def program(case: str) -> Program:
    return Program(HERE / "trainer_case.py", "net", before=(json.dumps(CASES[case][0]),))


@pytest.mark.torture
@pytest.mark.parametrize("case", CASES)
def test_twenty_kills_change_no_bit(case: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    program(case).kill_and_compare(tmp_path, 20, last=CASES[case][1])
    assert [(run.state, run.exact) for run in mk.open(tmp_path / "killed" / "0").runs()] == [("finished", True)]
    tried(20, f"SIGKILLs of a Trainer of Hugging Face: {case}", "")


def test_the_example_is_stopped_by_sigterm_and_goes_on(tmp_path: Path) -> None:
    example = Program(DOCS / "train_transformers.py", "digits", after=("3",))
    whole = example.to_its_end(tmp_path / "whole")
    assert example.stopped(tmp_path / "stopped", signal.SIGTERM, 3)
    with mk.open(tmp_path / "stopped", create=False).run("digits") as run:
        assert run.resumed[0].reason == "signal"
    assert example.to_its_end(tmp_path / "stopped") == whole
    assert len((DOCS / "train_transformers.py").read_text().splitlines()) < 60


# In this process


class Line(torch.nn.Module):
    """The smallest model that a Trainer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.layer(x)
        return {"loss": (out[:, 0] - labels).square().mean(), "logits": out}


ROWS = [{"x": torch.tensor([row, 1.0]), "labels": torch.tensor(2.0 * row)} for row in np.linspace(0, 1, 8).astype("f4")]


def trainer(folder: Path, data: Any = ROWS, **options: Any) -> transformers.Trainer:
    defaults = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "remove_unused_columns": False,
    }  # fmt: skip
    args = transformers.TrainingArguments(str(folder / "trainer"), **{**defaults, **options})
    return transformers.Trainer(Line(), args, train_dataset=data, eval_dataset=ROWS)


def test_metrics_checkpoints_and_the_end_are_recorded(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    first = trainer(tmp_path)
    first.get_train_dataloader = own = first.get_train_dataloader
    output = mk.transformers.train(first, run=keep.run("line", seed=1), checkpoint=mk.every(steps=1))
    steps = [(one.step, one.epoch, one.reason) for one in reversed(keep.store.run("line").checkpoints(dropped=True))]
    assert steps == [(0, 0, "start"), (1, 0, "policy"), (2, 1, "policy"), (3, 1, "policy"), (4, 2, "final")]
    assert vars(first)["get_train_dataloader"] is own  # and the trainer is as it was
    assert "_load_rng_state" not in vars(first)
    assert [type(one).__name__ for one in first.callback_handler.callbacks].count("_Training") == 0
    again = trainer(tmp_path)
    with keep.run("line", seed=1) as run:
        assert [row.step for row in run.metrics()] == [1, 2, 3, 4, 4]
        assert mk.transformers.train(again, run=run) == output
    assert torch.equal(first.model.layer.weight, again.model.layer.weight)
    assert again.state.log_history == first.state.log_history
    with (
        keep.run("line", seed=1) as run,
        pytest.raises(UsageError, match="is finished, and its schedule ended with it"),
    ):
        mk.transformers.train(trainer(tmp_path, num_train_epochs=3), run=run)


def test_the_best_model_at_the_end_is_what_a_finished_run_gives_back(tmp_path: Path) -> None:
    options = {
        "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "learning_rate": 5.0,
        "load_best_model_at_end": True,
    }  # fmt: skip
    first = trainer(tmp_path, **options)
    keep = mk.open(tmp_path / "keep")
    mk.transformers.train(first, run=keep.run("line", seed=1))
    again = trainer(tmp_path, **options)
    mk.transformers.train(again, run=keep.run("line", seed=1))
    assert torch.equal(first.model.layer.weight, again.model.layer.weight)
    assert again.state.best_metric == first.state.best_metric


def test_a_checkpoint_of_the_trainer_is_taken_over_at_the_first_start_alone(tmp_path: Path) -> None:
    old = trainer(tmp_path, save_strategy="steps", save_steps=3, num_train_epochs=4)
    old.train()
    keep = mk.open(tmp_path / "keep")
    folder = tmp_path / "trainer" / "checkpoint-3"
    taken = trainer(tmp_path, num_train_epochs=4)
    with keep.run("line", seed=1) as run:
        output = mk.transformers.train(taken, run=run, resume_from_checkpoint=folder, checkpoint=mk.every(steps=1))
    steps = [one.step for one in reversed(keep.store.run("line").checkpoints(dropped=True))]
    assert (output.global_step, steps) == (8, [3, 4, 5, 6, 7, 8])
    assert taken.state.log_history[:3] == old.state.log_history[:3]
    assert not keep.runs()[0].exact
    again = trainer(tmp_path, num_train_epochs=4)
    with keep.run("line", seed=1) as run:
        mk.transformers.train(again, run=run, resume_from_checkpoint=folder)
    assert torch.equal(again.model.layer.weight, taken.model.layer.weight)


def test_data_that_do_not_tell_their_length_are_refused_or_marked(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(ROWS)

    keep = mk.open(tmp_path / "keep")
    with pytest.raises(NotExact, match="do not tell their length"):
        mk.transformers.train(trainer(tmp_path, Stream(), max_steps=3), run=keep.run("line", seed=1))
    with pytest.warns(RuntimeWarning, match="will not resume bit for bit"):
        mk.transformers.train(trainer(tmp_path, Stream(), max_steps=3), run=keep.run("line", seed=1), exact=False)
    assert not keep.runs()[0].exact


def test_another_kind_of_run_another_model_and_a_search_for_a_batch_size_are_refused(tmp_path: Path) -> None:
    keep = mk.open(tmp_path / "keep")
    with keep.run("other", seed=1) as run:
        run.save({"w": np.ones(2)}, step=1, epoch=0, wait=True)
    with pytest.raises(StateMismatch, match="another kind of training"):
        mk.transformers.train(trainer(tmp_path), run=keep.run("other", seed=1))
    with pytest.raises(UsageError, match="auto_find_batch_size"):
        mk.transformers.train(trainer(tmp_path, auto_find_batch_size=True), run=keep.run("line", seed=1))
    mk.transformers.train(trainer(tmp_path), run=keep.run("line", seed=1))
    another = trainer(tmp_path)
    another.model.layer = torch.nn.Linear(2, 3)
    with pytest.raises(StateMismatch, match=r"layer/weight"):
        mk.transformers.train(another, run=keep.run("line", seed=1))
