import collections
import warnings

import numpy as np
import pytest
import torch

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, UnknownFormat, Unsafe
from modelkeep.importers import open_weights

FORMS = {"zip": True, "legacy": False}
DTYPES = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
    "bfloat16", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip
TYPED = {*DTYPES[:2], *DTYPES[5:13], "complex64", "complex128"}
"""Those that the old form of the file can hold: torch itself does not read the others from it."""


def bits(tensor):
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def raw(dtype):
    data = np.random.default_rng(7).integers(0, 2 if dtype == torch.bool else 256, 96, np.uint8)
    return torch.from_numpy(data.copy()).view(dtype)


def flat(value, name=""):
    if isinstance(value, torch.Tensor):
        return {name: value}
    if not isinstance(value, (dict, list, tuple)):
        return {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: t for key, item in items for k, t in flat(item, f"{name}/{key}" if name else str(key)).items()}


def check_equal(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half complex numbers, and of protocols that torch reads none the less
        wanted = flat(torch.load(path, weights_only=True))
    weights = open_weights(path)
    assert list(weights.tensors) == list(wanted)
    for name, tensor in wanted.items():
        got = weights.tensors[name]
        array = got.read()
        assert (got.dtype, got.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)), name
        assert array.shape == got.shape
        assert array.flags.c_contiguous
        assert array.nbytes == got.nbytes
        assert array.tobytes() == bits(tensor), name
    return weights


@pytest.fixture(params=FORMS)
def save(request, tmp_path):
    def save(value, **more):
        torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=FORMS[request.param], **more)
        return tmp_path / "x.pt"

    return save


def test_every_dtype_is_bit_for_bit_what_torch_loads(save, request):
    typed = DTYPES if "zip" in request.node.name else [name for name in DTYPES if name in TYPED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save({name: raw(getattr(torch, name)) for name in typed})
    assert check_equal(path).format == "torch"


def test_views_strides_scalars_empty_and_tied_tensors_are_what_torch_loads(save):
    base = torch.arange(60.0).reshape(3, 4, 5)
    states = {
        "base": base, "again": base, "transposed": base.permute(2, 0, 1), "row": base[1], "column": base[:, :, 2],
        "stepped": base[::2, 1::2, ::3], "expanded": torch.arange(3.0)[:, None].expand(3, 4), "scalar": base[2, 1, 0],
        "zero": torch.tensor(7), "empty": torch.zeros(0), "hollow": torch.zeros(3, 0, 2), "one": base[:1, :1],
        "parameter": torch.nn.Parameter(base[0].t()), "untracked": torch.nn.Parameter(base, requires_grad=False),
        "conjugate": torch.view_as_complex(torch.randn(4, 2)).conj(),
        "negative": torch.view_as_complex(torch.randn(4, 2)).conj().imag,
        "fortran": torch.arange(6).reshape(2, 3).t(),
        "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }  # fmt: skip
    weights = check_equal(save(states))
    assert weights.metadata["tied"] == [["base", "again", "untracked"]]


def test_a_training_checkpoint_keeps_its_optimizer_apart_and_its_values_as_metadata(save):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.LSTM(2, 3, batch_first=True))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    state = {
        "epoch": 3, "model": net.state_dict(), "optimizer": optimizer.state_dict(), "best": float("inf"),
        "scheduler": scheduler.state_dict(), "device": torch.device("cuda:1"), "size": torch.Size([2, 3]),
        "raw": b"\0\xff", "array": bytearray(b"ab"), "set": {1}, "complex": 1 + 2j, "dtype": torch.float16,
    }  # fmt: skip
    weights = check_equal(save(state))
    assert weights.metadata["optimizer"] == "optimizer/"
    names = [name for name, _ in weights.model()]
    assert names == [f"model/{name}" for name in net.state_dict()]
    assert "optimizer/state/0/exp_avg" in weights.tensors
    values = weights.metadata["values"]
    assert (values["epoch"], values["best"], values["dtype"], values["device"]) == (3, "inf", "torch.float16", "cuda:1")
    assert values["optimizer"]["param_groups"][0]["lr"] == 0.01
    assert values["size"] == [2, 3]


@pytest.mark.parametrize(("form", "protocol"), [(True, 2), (True, 3), (True, 4), (True, 5), (False, 2), (False, 3)])
def test_all_pickle_protocols_are_read(tmp_path, form, protocol):
    state = {"w": torch.ones(2), "n": {"k": torch.arange(3)}, "t": (1, "é", None, True)}
    path = tmp_path / "x.pt"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form)
    weights = open_weights(path)
    assert weights.tensors["w"].read().tolist() == [1, 1]
    assert weights.tensors["n/k"].read().tolist() == [0, 1, 2]
    assert weights.metadata["values"] == {"t": [1, "é", None, True]}


def test_a_bare_tensor_and_a_list_have_names(tmp_path):
    torch.save(torch.ones(2), tmp_path / "one")
    assert list(open_weights(tmp_path / "one").tensors) == ["tensor"]
    torch.save([torch.ones(2), {"a": torch.zeros(1)}], tmp_path / "list")
    assert list(open_weights(tmp_path / "list").tensors) == ["0", "1/a"]


def test_a_flipped_bit_that_torch_loads_in_silence_is_damage(tmp_path):
    states = {"w": torch.ones(1000), "part": torch.ones(1000)[10:20]}
    torch.save(states, tmp_path / "x.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    for place in (i for i in range(len(data) - 4000) if data[i : i + 4000] == np.ones(1000, np.float32).tobytes()):
        data[place + 1200] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    assert not torch.equal(torch.load(tmp_path / "x.pt")["w"], states["w"])
    for name in states:
        with pytest.raises(Damaged, match="checksum"):
            open_weights(tmp_path / "x.pt").tensors[name].read()


def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(10)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    check_equal(tmp_path / "x.pt")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


def test_a_whole_module_is_refused_and_the_way_out_is_told(save):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(torch.nn.Linear(2, 2))
    with pytest.raises(Unsafe, match=r"state_dict"):
        open_weights(path)


def test_torchscript_is_refused_and_the_way_out_is_told(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Net()).save(tmp_path / "x.pt")
    with pytest.raises(Unsafe, match=r"TorchScript.*torch\.jit\.load\(path\)\.state_dict"):
        open_weights(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.empty(3, device="meta"), "meta"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
    ],
)
def test_tensors_without_plain_values_are_told_apart(tmp_path, make, word):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"x": make()}, tmp_path / "x.pt")
    with pytest.raises(UnknownFormat, match=word):
        open_weights(tmp_path / "x.pt")


def test_what_an_expanded_tensor_would_take_counts_not_what_it_has(tmp_path):
    torch.save({"x": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.pt")
    with pytest.raises(LimitExceeded):
        open_weights(tmp_path / "x.pt", Budget(nbytes=1 << 30))


def test_dicts_of_other_kinds_are_read(tmp_path):
    state = collections.OrderedDict([("w", torch.ones(2))])
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save({"state_dict": state, "counter": collections.Counter("aab")}, tmp_path / "x.pt")
    weights = check_equal(tmp_path / "x.pt")
    assert weights.metadata["values"] == {"counter": {"a": 2, "b": 1}}
