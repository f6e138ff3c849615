"""Flax modules (nnx) as versions: published with their answers, loaded into a module of the same class, exported."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import modelkeep as mk
from modelkeep.errors import NotExact, StateMismatch, UsageError
from modelkeep.keep import Keep

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


class Net(nnx.Module):
    """What differs in training, a list of layers, and two outputs."""

    def __init__(self, rngs: nnx.Rngs, width: int = 8) -> None:
        self.first, self.norm = nnx.Linear(6, width, rngs=rngs), nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])

    def __call__(self, x, gain):
        hidden = self.drop(nnx.gelu(self.norm(self.first(x))))
        for layer in self.layers:
            hidden = layer(hidden)
        return {"scores": nnx.softmax(hidden), "hidden": hidden * gain}


def trained() -> Net:
    net = Net(nnx.Rngs(0))
    net(jnp.asarray(np.random.default_rng(1).normal(size=(64, 6))), jnp.ones((64, 1)))  # running statistics
    return net


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return mk.open(tmp_path / "keep")


def test_it_is_loaded_into_a_module_of_the_same_class_bit_for_bit(keep: Keep) -> None:
    net = trained()
    before = nnx.to_pure_dict(nnx.state(net))
    keep.publish("net", net, example=(X, X[:, :1]))
    nnx_after = nnx.to_pure_dict(nnx.state(net))
    assert np.array_equal(before["norm"]["mean"], nnx_after["norm"]["mean"])
    assert int(before["drop"]["rngs"]["count"]) == int(nnx_after["drop"]["rngs"]["count"])
    other = Net(nnx.Rngs(1))
    assert mk.load_model("net", keep=keep, into=other, check=True) is other
    for one in ("first", "norm"):
        for name, array in nnx.to_pure_dict(nnx.state(getattr(net, one))).items():
            assert np.array_equal(array, nnx.to_pure_dict(nnx.state(getattr(other, one)))[name])
    net.eval(), other.eval()
    assert np.array_equal(net(X, X[:, :1])["scores"], other(X, X[:, :1])["scores"])
    names = {path for path in keep.snapshot("model:net@1").tensors if path.startswith("model/")}
    assert "model/layers/1/kernel" in names
    assert not [one for one in names if "rngs" in one]


def test_what_does_not_fit_is_named_and_the_module_is_as_it_was(keep: Keep) -> None:
    keep.publish("net", trained(), example=(X, X[:, :1]))
    with pytest.raises(UsageError, match=r"is a flax module of the class .*Net, which is never imported by its name"):
        keep.load_model("net")
    wide = Net(nnx.Rngs(1), width=9)
    before = np.array(wide.first.kernel[...])
    with pytest.raises(StateMismatch, match="first"):
        keep.load_model("net", into=wide)
    assert np.array_equal(before, wide.first.kernel[...])
    with pytest.raises(UsageError, match=r"a flax module does not tell what it takes and gives; pass example="):
        keep.publish("net", trained())
    with pytest.raises(UsageError, match="the model does not compute the example"):
        keep.publish("net", trained(), example=X)


def test_another_answer_than_was_kept_is_noticed(keep: Keep) -> None:
    class Other(Net):
        def __call__(self, x, gain):
            return super().__call__(x, gain * 2)

    keep.publish("net", trained(), example=(X, X[:, :1]))
    with pytest.raises(NotExact, match="hidden"):
        keep.load_model("net", into=Other(nnx.Rngs(1)), check=True)


@pytest.mark.parametrize(("to", "runtime"), [("stablehlo", "jax"), ("savedmodel", "tensorflow-c")])
def test_it_answers_by_another_runtime(keep: Keep, tmp_path: Path, to: str, runtime: str) -> None:
    net = trained()
    keep.publish("net", net, example=(X, X[:, :1]), labels={"scores": list("abcdefgh")})
    keep.export("net", to, tmp_path / f"net.{to}", model=Net(nnx.Rngs(5)))  # of other weights: the version's count
    predict = keep.predictor("net")
    assert predict.runtime.startswith(runtime)
    net.eval()
    found, wanted = predict([X, X[:, :1]]), net(X, X[:, :1])
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-6)
    assert predict.labels(found)["scores"] == ["abcdefgh"[one] for one in np.argmax(wanted["scores"], -1)]
    keep.export("net", "safetensors", tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match=r"is a flax model, and litert is written from Keras models; .* stablehlo,"):
        keep.export("net", "litert", tmp_path / "net.tflite", model=Net(nnx.Rngs(5)))
