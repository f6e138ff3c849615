"""Loaders as sources: any batch can be had first, the same with any number of workers; what is not is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import keras
import loader_data
import numpy as np
import pytest
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

import modelkeep as mk
from modelkeep.errors import NotExact, UsageError
from modelkeep.training.keras.data import Order, source_of

X = np.arange(70 * 64, dtype="float32").reshape(70, 8, 8, 1) / 100
Y = np.arange(70)


def source(data: Any, steps: int | None = None, seed: int = 5, **options: Any) -> Any:
    found = source_of(
        (data, None, None), batch_size=None, steps=steps, class_weight=None, order=Order(seed, shuffle=True), **options
    )
    assert found is not None
    return found


def read(found: Any, epoch: int, batch: int = 0) -> list[Any]:
    return [[np.asarray(part).tolist() for part in one] for one in found.open(epoch, batch)]


@pytest.mark.parametrize("kind", ["loader", "weighted", "stateful", "hugging_face", "grain_map", "grain_stream"])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call of torch
def test_any_batch_can_be_had_first(kind: str) -> None:
    steps = 2 if kind == "grain_stream" else None
    data = getattr(loader_data, kind)(X, Y)
    epochs = [read(source(data, steps), epoch) for epoch in range(2)]
    assert epochs[0] != epochs[1] or kind == "grain_map"  # Grain's order is that of its seed, as in Keras
    for epoch in range(2):
        for batch in range(len(epochs[epoch])):
            assert read(source(getattr(loader_data, kind)(X, Y), steps), epoch, batch) == epochs[epoch][batch:]


def test_the_number_of_workers_changes_nothing_and_the_seed_everything() -> None:
    alone = read(source(loader_data.loader(X, Y, shuffle=True)), 1)
    assert read(source(loader_data.loader(X, Y, shuffle=True, num_workers=2)), 1) == alone
    assert read(source(loader_data.loader(X, Y, shuffle=True), seed=6), 1) != alone


def test_a_stream_goes_on_with_the_next_pass_and_remembers_how_long_one_was() -> None:
    whole = source(loader_data.streamed(X, Y, 0), steps=4)  # a pass has three batches
    epochs = [read(whole, epoch) for epoch in range(3)]
    assert [len(one) for one in epochs] == [4, 4, 4]
    assert len({str(batch) for one in epochs for batch in one}) == 12
    assert whole.state(4)["lengths"].items() >= {"0": 3, "1": 3, "2": 3}.items()
    other = source(loader_data.streamed(X, Y, 0), steps=4)
    assert read(other, 2, 1) == epochs[2][1:]
    known = source(loader_data.streamed(X, Y, 0), steps=4)
    known.restore(whole.state(4))
    assert read(known, 2, 1) == epochs[2][1:]


def test_epochs_that_follow_one_another_read_no_batch_twice() -> None:
    counted = loader_data.streamed(X, Y, 0)
    opened, rows = [0], counted.dataset.__class__.__iter__

    class Counted(type(counted.dataset)):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            opened[0] += 1
            return rows(self)

    counted.dataset.__class__ = Counted
    found = source(counted, steps=2)
    found.sample()
    before = opened[0]
    for epoch in range(6):  # four passes of three batches
        assert len(read(found, epoch)) == 2
    assert opened[0] - before == 4

    drawn: list[int] = []
    stream = grain.MapDataset.range(1000).repeat().to_iter_dataset().map(lambda row: drawn.append(row) or row).batch(2)
    found = source(stream.map(lambda rows: (rows, rows)), steps=3)
    found.sample()
    drawn.clear()
    numbers = [batch[0] for epoch in range(20) for batch in read(found, epoch)]
    assert numbers == [[2 * n, 2 * n + 1] for n in range(60)]
    assert len(drawn) < 1000  # it reads ahead, and skips nothing


def test_global_generators_are_left_as_they_were() -> None:
    import random

    import torch

    states = [random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes(), torch.get_rng_state()]
    read(source(loader_data.loader(X, Y, shuffle=True)), 0)
    read(source(loader_data.streamed(X, Y, 0), steps=2), 0)
    assert random.getstate() == states[0]
    assert np.random.get_state(legacy=False)["state"]["key"].tobytes() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


# What is refused


class Counting(Dataset[Any]):
    """Gives something else each time."""

    def __init__(self) -> None:
        self.count = 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Any:
        self.count += 1
        return np.full((4,), self.count, "float32"), np.float32(row)


class Rotating(Sampler[int]):
    """Gives another order each time it is asked, from nothing that could be seeded."""

    def __init__(self) -> None:
        self.asked = 0

    def __iter__(self) -> Iterator[int]:
        self.asked += 1
        return iter([(row + self.asked) % 20 for row in range(20)])

    def __len__(self) -> int:
        return 20


class Plain(Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Any:
        return np.full((4,), row, "float32"), np.float32(row)


def fit(data: Any, folder: Path, **options: Any) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return mk.keras.fit(model, data, run=mk.open(folder).run("r", capture=False), verbose=0, **options)


def test_what_no_seed_decides_is_refused_with_its_fix(tmp_path: Path) -> None:
    with pytest.raises(NotExact, match="DataLoader of Counting differ when they are read twice from the same seeds"):
        fit(DataLoader(Counting(), 5), tmp_path / "a")
    with pytest.raises(NotExact, match="gives another order when it is asked twice from the same seed"):
        fit(DataLoader(Plain(), 5, sampler=Rotating()), tmp_path / "b")
    unseeded = grain.MapDataset.source([(np.ones(4, "float32"), np.float32(n)) for n in range(20)])
    jittered = unseeded.map(lambda row: (row[0] * np.random.rand(), row[1])).batch(5)
    with pytest.raises(NotExact, match=r"differ when they are read twice: give it a seed, .seed\(0\) before"):
        fit(jittered, tmp_path / "c")
    with pytest.raises(UsageError, match="repeats for ever, so an epoch would never end; pass steps_per_epoch="):
        fit(unseeded.repeat().batch(5), tmp_path / "d")
    with pytest.raises(UsageError, match="a DataLoader gives its own targets and weights; leave out y"):
        fit(DataLoader(Plain(), 5), tmp_path / "e", y=np.zeros(20))


def test_loaders_of_every_form_train_and_weigh_their_classes(tmp_path: Path) -> None:
    batches = BatchSampler(RandomSampler(Plain()), 5, drop_last=True)
    for number, loader in enumerate(
        [
            DataLoader(Plain(), batch_sampler=batches),
            DataLoader(Plain(), 6, sampler=SequentialSampler(Plain()), pin_memory=False),
            DataLoader(Plain(), 5, shuffle=True, num_workers=1, persistent_workers=True),
        ]
    ):
        history = fit(loader, tmp_path / str(number), epochs=2, class_weight=dict.fromkeys(range(20), 1.0))
        assert len(history.history["loss"]) == 2


def drawn() -> Iterator[Any]:
    """Batches of a generator that makes its own random numbers."""
    draws = np.random.default_rng(3)
    while True:
        x = draws.random((8, 4), np.float32)
        yield x, x.sum(axis=1, keepdims=True)


def test_a_replayed_generator_gives_any_batch_and_goes_on_through_the_epochs() -> None:
    whole = source(mk.keras.Replay(drawn), steps=3)
    epochs = [read(whole, epoch) for epoch in range(2)]
    assert len({str(batch) for epoch in epochs for batch in epoch}) == 6
    assert read(source(mk.keras.Replay(drawn), steps=3), 1, 2) == epochs[1][2:]
    assert read(whole, 0, 1) == epochs[0][1:]  # backwards, too


def test_a_replayed_generator_trains_and_is_resumed(tmp_path: Path) -> None:
    def fit(name: str, stop: int = 0) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        data = mk.keras.Replay(drawn)
        run = mk.open(tmp_path / "keep").run(name, seed=1, capture=False)
        return mk.keras.fit(
            model, data, run=run, steps_per_epoch=4, epochs=3, verbose=0, checkpoint=mk.every(steps=1),
            validation_data=data, validation_steps=2, callbacks=[Stop(stop)],
        ).history  # fmt: skip

    whole = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("interrupted", 6)
    assert fit("interrupted") == whole


class Stop(keras.callbacks.Callback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) == self.step:
            raise KeyboardInterrupt

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


def test_a_generator_that_is_no_replay_or_ends_is_refused_with_the_fix(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def fit(data: Any, **options: Any) -> None:
        mk.keras.fit(model, data, run=mk.open(tmp_path / "keep").run("r", new=True), verbose=0, **options)

    with pytest.raises(NotExact, match=r"modelkeep.keras.Replay\(batches\)"):
        fit(drawn(), steps_per_epoch=2)
    with pytest.raises(UsageError, match="steps_per_epoch="):
        fit(mk.keras.Replay(drawn))
    same = drawn()
    with pytest.raises(NotExact, match="differ when it is called twice"):
        fit(mk.keras.Replay(lambda: same), steps_per_epoch=2)

    def few() -> Iterator[Any]:
        for _, batch in zip(range(3), drawn(), strict=False):
            yield batch

    with pytest.raises(Exception, match="has ended after 3 batches"):
        fit(mk.keras.Replay(few), steps_per_epoch=2, epochs=2)
