import pytest

from modelkeep.errors import UsageError
from modelkeep.training.policy import Best, Every, Retain, best, every, retain


def due(
    policy: Every, step: int = 0, ended: int | None = None, now: float = 0, last: tuple[int, float] = (0, 0)
) -> bool:
    return policy.due(step, ended, now, *last)


def test_a_save_is_due_when_any_of_the_three_says_so() -> None:
    policy = every(steps=10, epochs=2, seconds=60)
    assert due(policy, step=10)
    assert due(policy, step=3, ended=2)
    assert due(policy, step=3, now=60)
    assert not due(policy, step=9, ended=1, now=59)


def test_steps_count_on_a_grid_so_that_a_resumed_training_saves_where_the_other_would_have() -> None:
    policy = every(steps=100)
    assert due(policy, step=200, last=(137, 0))
    assert not due(policy, step=236, last=(200, 0))


def test_steps_that_jump_over_the_grid_are_not_missed() -> None:
    assert due(every(steps=10), step=24, last=(16, 0))


def test_a_clock_that_jumps_back_makes_a_save_due_and_not_overdue_for_hours() -> None:
    assert due(every(seconds=60), now=5, last=(0, 1000))
    assert not due(every(seconds=60), now=6, last=(0, 5))


def test_the_default_is_each_epoch_and_every_five_minutes() -> None:
    assert every() == Every(steps=None, epochs=1, seconds=300.0)
    assert retain() == Retain(last=3, every_steps=None, best=None)
    assert best("loss") == Best("loss", "min", 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "ten"])
def test_a_count_that_is_no_whole_number_above_zero_is_refused_by_name(value: object) -> None:
    with pytest.raises(UsageError, match=r"every\(steps="):
        every(steps=value)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"every\(epochs="):
        every(epochs=value)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"retain\(last="):
        retain(last=value)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"best\(keep="):
        best("loss", keep=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_seconds_that_are_no_number_above_zero_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"every\(seconds="):
        every(seconds=value)  # type: ignore[arg-type]


def test_a_metric_name_in_place_of_best_is_refused_with_the_right_call() -> None:
    with pytest.raises(UsageError, match=r"try best\('val_loss'\)"):
        retain(best="val_loss")  # type: ignore[arg-type]


def test_another_mode_than_min_and_max_is_refused() -> None:
    with pytest.raises(UsageError, match="'min' or 'max'"):
        best("loss", mode="auto")
