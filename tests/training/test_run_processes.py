"""Runs through several processes: locks, kills, exits, machines that differ."""

from pathlib import Path

import pytest

import modelkeep as mk
from modelkeep.errors import RunLocked

from .programs import Program

HOLD = """
run = keep.run("cnn")
run.save(state(1), step=1, epoch=0, wait=True)
tell("holds")
sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "keep"


def test_another_process_on_the_same_run_is_refused_with_who_holds_it(place: Path) -> None:
    with Program(place, HOLD) as program:
        assert program.line() == "holds"
        with pytest.raises(RunLocked, match=f"process {program.process.pid}"):
            mk.open(place).run("cnn")
        mk.open(place).run("other").close()
        (summary,) = [one for one in mk.open(place).runs() if one.name == "cnn"]
        assert summary.state == "running"


def test_after_sigkill_the_same_command_goes_on_straight_away(place: Path) -> None:
    with Program(place, HOLD) as program:
        assert program.line() == "holds"
        program.kill()
    keep = mk.open(place)
    assert keep.runs()[0].state == "interrupted"
    with keep.run("cnn") as run:
        assert run.resumed is not None
        assert (run.attempt, run.resumed[0].step) == (2, 1)


def test_a_forked_worker_that_outlives_its_killed_parent_does_not_hold_the_run(place: Path) -> None:
    body = """
run = keep.run("cnn")
run.save(state(1), step=1, epoch=0, wait=True)
if os.fork() == 0:
    tell("worker", os.getpid())
    sys.stdin.readline()
    os._exit(0)
tell("parent")
signal.pause()
"""
    with Program(place, body) as program:
        assert {program.line().split()[0], program.line().split()[0]} == {"parent", "worker"}
        program.kill()
        with mk.open(place).run("cnn") as run:
            assert run.attempt == 2


def test_a_forked_child_that_ends_leaves_the_parents_run_open_and_saved(place: Path) -> None:
    body = """
run = keep.run("cnn")
run.save(state(1), step=1, epoch=0)
child = os.fork()
if child == 0:
    assert run.closed
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
run.save(state(2), step=2, epoch=0)
"""
    with Program(place, body) as program:
        code, _, errors = program.end()
        assert (code, errors) == (0, "")
    assert mk.open(place).snapshot("cnn@last").meta["step"] == 2


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise ZeroDivisionError", "os.kill(os.getpid(), signal.SIGINT)"])
def test_a_script_that_ends_without_close_still_keeps_what_it_handed_over(place: Path, end: str) -> None:
    body = f"""
run = keep.run("cnn")
for step in range(1, 4):
    run.log({{"loss": 1.0}}, step=step, epoch=0)
    run.save(state(step), step=step, epoch=0)
run.log({{"loss": 1.0}}, step=4, epoch=0)
{end}
"""
    with Program(place, body) as program:
        program.end()
    record = mk.open(place).store.run("cnn")
    assert [one.step for one in record.checkpoints()] == [3, 2, 1]
    assert [row.step for row in record.metrics()] == [1, 2, 3, 4]


def test_an_error_of_the_background_at_the_end_of_a_script_is_not_swallowed(place: Path) -> None:
    body = """
from modelkeep.backend import syscalls
run = keep.run("cnn")
def fail(*_):
    raise OSError(28, "No space left on device")
syscalls.write = fail
run.save(state(1), step=1, epoch=0)
"""
    with Program(place, body) as program:
        assert "no space left on device" in program.end()[2]


def test_metrics_survive_a_kill_although_nothing_was_saved_after_them(place: Path) -> None:
    body = """
run = keep.run("cnn")
for step in range(3):
    run.log({"loss": 1.0}, step=step, epoch=0)
tell("logged")
signal.pause()
"""
    with Program(place, body) as program:
        assert program.line() == "logged"
        record = mk.open(place).store.run("cnn")
        while len(record.metrics()) < 3:
            assert program.process.poll() is None
        program.kill()
    with mk.open(place).run("cnn") as run:
        assert [row.step for row in run.metrics()] == [0, 1, 2]


SAVE = """
run = keep.run("cnn", exact=len(sys.argv) < 3 and not os.environ.get("INEXACT"))
{setup}
step = run.resumed[0].step + 1 if run.resumed else 1
run.save(state(step), step=step, epoch=0, wait=True)
tell("saved", step, run.exact)
"""


def save(place: Path, setup: str = "", **variables: str) -> tuple[int, str, str]:
    with Program(place, SAVE.format(setup=setup), **variables) as program:
        return program.end()


def test_a_machine_that_differs_is_refused_by_name_before_anything_is_computed(place: Path) -> None:
    assert save(place, OMP_NUM_THREADS="1")[1] == "saved 1 True\n"
    code, output, errors = save(place, OMP_NUM_THREADS="2")
    assert (code, output) == (1, "")
    assert "NotExact" in errors
    assert "OMP_NUM_THREADS: 1 then, 2 now" in errors
    assert "exact=False" in errors
    assert len(mk.open(place).store.run("cnn").attempts()) == 1
    assert save(place, OMP_NUM_THREADS="1")[1] == "saved 2 True\n"


def test_exact_false_goes_on_and_marks_the_run_for_good(place: Path) -> None:
    save(place, OMP_NUM_THREADS="1")
    _, output, errors = save(place, OMP_NUM_THREADS="2", INEXACT="1")
    assert output == "saved 2 False\n"
    assert "RuntimeWarning" in errors
    assert save(place, OMP_NUM_THREADS="2")[1] == "saved 3 False\n"
    checkpoints = mk.open(place).store.run("cnn").checkpoints()
    assert [one.exact for one in checkpoints] == [False, False, True]
    assert mk.open(place).snapshot("cnn@last").meta["not_exact"] == ["OMP_NUM_THREADS: 1 then, 2 now"]


def test_what_is_set_after_the_run_was_opened_is_compared_before_the_first_save(place: Path) -> None:
    setup = "import torch; torch.set_num_threads({})"
    assert save(place, setup.format(1))[1] == "saved 1 True\n"
    code, output, errors = save(place, setup.format(2))
    assert (code, output) == (1, "")
    assert "torch threads: 1 then, 2 now" in errors
    assert save(place, setup.format(1))[1] == "saved 2 True\n"


def test_another_framework_is_refused(place: Path) -> None:
    save(place, "import torch")
    assert "framework: torch then, jax now" in save(place, "import jax; jax.numpy.zeros(1)")[2]


def test_a_fork_on_another_machine_is_a_training_of_its_own(place: Path) -> None:
    save(place, OMP_NUM_THREADS="1")
    body = """
run = keep.run("tuned", fork="cnn@1")
run.save(state(2), step=2, epoch=0, wait=True)
tell(run.exact)
"""
    with Program(place, body, OMP_NUM_THREADS="2") as program:
        assert program.end()[1] == "True\n"


def test_a_finished_run_is_read_on_any_machine(place: Path) -> None:
    with Program(place, SAVE.format(setup="") + "run.finish({'done': 1})", OMP_NUM_THREADS="1") as program:
        program.end()
    with Program(place, "run = keep.run('cnn'); tell(run.finished)", OMP_NUM_THREADS="2") as program:
        assert program.end()[1] == "{'done': 1}\n"


def test_capture_false_records_only_what_decides_the_bits(place: Path) -> None:
    body = "keep.run('with'); keep.run('without', capture=False)"
    with Program(place, body, SLURM_JOB_ID="42") as program:
        program.end()
    store = mk.open(place).store
    (with_it,), (without,) = store.run("with").attempts(), store.run("without").attempts()
    assert "42" in str(with_it.info["environment"])
    assert without.info["environment"] is None
    assert without.info["fingerprint"] == with_it.info["fingerprint"]


def test_a_background_save_that_is_killed_leaves_nothing_in_the_way(place: Path) -> None:
    body = """
from modelkeep.backend import syscalls
run = keep.run("cnn")
run.save(state(1), step=1, epoch=0, wait=True)
def stop(*_):
    tell("in the middle")
    signal.pause()
syscalls.publish = stop
run.save(state(2), step=2, epoch=0)
signal.pause()
"""
    with Program(place, body) as program:
        assert program.line() == "in the middle"
        program.kill()
    keep = mk.open(place)
    with keep.run("cnn") as run:
        assert run.resumed is not None
        assert run.resumed[0].step == 1
        run.save({"step": 2}, step=2, epoch=0)
    assert keep.verify().ok
    assert not list(place.rglob("*.tmp"))
