import numpy as np
import pytest

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, Unsafe
from modelkeep.importers import open_weights

jax = pytest.importorskip("jax")
ocp = pytest.importorskip("orbax.checkpoint")


@pytest.fixture
def saved(tmp_path):
    import jax.numpy as jnp

    tree = {
        "params": {"dense": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4, jnp.bfloat16)}},
        "opt_state": [{"mu": jnp.zeros(3)}, {"count": jnp.int32(7)}],
        "plain": np.arange(5),
    }
    with ocp.StandardCheckpointer() as keeper:
        keeper.save(tmp_path / "one", tree)
    with ocp.CheckpointManager(tmp_path / "steps") as manager:
        manager.save(3, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    return tmp_path, tree


@pytest.mark.parametrize("place", ["one", "steps/3", "steps/3/default"])
def test_the_arrays_are_those_that_were_saved(saved, place):
    folder, tree = saved
    weights = open_weights(folder / place)
    assert weights.format == "orbax"
    wanted = {
        "params/dense/kernel": tree["params"]["dense"]["kernel"], "params/dense/bias": tree["params"]["dense"]["bias"],
        "opt_state/0/mu": tree["opt_state"][0]["mu"], "opt_state/1/count": tree["opt_state"][1]["count"],
        "plain": tree["plain"],
    }  # fmt: skip
    assert weights.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        got = weights.tensors[name]
        assert got.dtype == np.asarray(array).dtype.name
        assert got.read().tobytes() == np.asarray(array).tobytes()
    assert "opt_state/0/mu" not in dict(weights.model())


def test_a_budget_a_link_and_a_missing_part_are_told(saved):
    folder, _ = saved
    with pytest.raises(LimitExceeded):
        open_weights(folder / "one", Budget(nbytes=20))
    (folder / "one" / "link").symlink_to("/etc/passwd")
    with pytest.raises(Unsafe, match="link"):
        open_weights(folder / "one")
    (folder / "steps" / "3" / "default" / "manifest.ocdbt").unlink()
    with pytest.raises(Damaged):
        open_weights(folder / "steps" / "3")
