import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from modelkeep.budget import Budget
from modelkeep.errors import Damaged, LimitExceeded, NotFound, UnknownFormat, Unsafe
from modelkeep.importers import open_weights

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


def raw(size, dtype):
    return torch.frombuffer(bytearray(np.random.default_rng(size).bytes(size)), dtype=torch.uint8).view(dtype)


def test_every_dtype_has_the_bits_that_the_library_wrote(tmp_path):
    tensors = {name: raw(48, dtype).clone() for name, dtype in TORCH.items() if name != "BOOL"}
    tensors |= {"BOOL": torch.tensor([True, False]), "scalar": torch.tensor(2.5), "none": torch.zeros(3, 0)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    weights = open_weights(tmp_path / "m.safetensors")
    assert weights.format == "safetensors"
    assert weights.metadata["__metadata__"] == {"format": "pt"}
    assert weights.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        got = weights.tensors[name]
        assert got.dtype == str(tensor.dtype).removeprefix("torch.")
        array = got.read()
        assert array.shape == got.shape == tuple(tensor.shape)
        assert array.nbytes == got.nbytes
        assert array.tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else True


def test_a_file_is_known_by_its_bytes_whatever_it_is_called(tmp_path):
    safetensors.numpy.save_file({"w": np.arange(3.0)}, tmp_path / "model.bin")
    assert open_weights(tmp_path / "model.bin").format == "safetensors"


@pytest.fixture
def hub(tmp_path):
    """A Hugging Face folder: two shards, an index and a config."""
    folder = tmp_path / "hub"
    folder.mkdir()
    arrays = {f"layer.{n}.weight": np.full((4, n + 1), n, ml_dtypes.bfloat16) for n in range(4)}
    shards = {f"model-0000{n + 1}-of-00002.safetensors": dict(list(arrays.items())[n::2]) for n in range(2)}
    for name, part in shards.items():
        save_file(
            {key: torch.from_numpy(v.view(np.int16)).view(torch.bfloat16) for key, v in part.items()}, folder / name
        )
    index = {
        "metadata": {"total_size": 80},
        "weight_map": {key: name for name, part in shards.items() for key in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return folder, arrays, index


def test_a_folder_of_shards_gives_all_tensors_and_the_config_as_it_stands(hub):
    folder, arrays, _ = hub
    for path in (folder, folder / "model.safetensors.index.json"):
        weights = open_weights(path)
        assert weights.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert weights.tensors[name].read().tobytes() == array.tobytes()
    assert open_weights(folder).metadata["config.json"] == '{"model_type": "tiny"}'
    assert open_weights(folder).metadata["index"] == {"total_size": 80}


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(hub):
    folder, _, index = hub
    path = folder / "model.safetensors.index.json"
    names = list(index["weight_map"])
    one, two = names[0], names[-1]
    swapped = {**index["weight_map"], one: index["weight_map"][two], two: index["weight_map"][one]}
    path.write_text(json.dumps({**index, "weight_map": swapped}))
    with pytest.raises(Damaged, match="which the index has elsewhere"):
        open_weights(folder)
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], "more": index["weight_map"][one]}}))
    with pytest.raises(Damaged, match="no shard holds 'more'"):
        open_weights(folder)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3, None])
def test_an_index_names_only_files_beside_it(hub, name):
    folder, _, index = hub
    index["weight_map"]["layer.0.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Unsafe):
        open_weights(folder)


def test_a_missing_shard_is_named(hub):
    folder, _, _ = hub
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model-00002-of-00002\.safetensors"):
        open_weights(folder)


def test_links_end_in_the_folder_or_in_the_blobs_of_the_hub_cache(hub, tmp_path):
    folder, _, _ = hub
    revision = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    revision.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(folder.iterdir()):
        (blobs / f"{number}").write_bytes(path.read_bytes())
        (revision / path.name).symlink_to(f"../../blobs/{number}")
    assert len(open_weights(revision).tensors) == 4
    shard = revision / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(folder / shard.name)
    with pytest.raises(Unsafe, match="leads out of its folder"):
        open_weights(revision)


def test_the_budget_counts_tensors_values_and_bytes(tmp_path):
    safetensors.numpy.save_file({f"w{n}": np.zeros(100, np.float32) for n in range(3)}, tmp_path / "m")
    assert open_weights(tmp_path / "m", Budget(nbytes=1200, parameters=300, entries=3)).nbytes == 1200
    for budget in (Budget(nbytes=1199), Budget(parameters=299), Budget(entries=2), Budget(text=20)):
        with pytest.raises(LimitExceeded):
            open_weights(tmp_path / "m", budget)


def test_bytes_that_were_cut_off_later_are_noticed_when_they_are_read(tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(100, np.float32)}, tmp_path / "m")
    weights = open_weights(tmp_path / "m")
    os.truncate(tmp_path / "m", 200)
    with pytest.raises(Damaged, match="cut off"):
        weights.tensors["w"].read()


def test_what_is_no_such_file_is_told_what_is_understood(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(UnknownFormat, match="safetensors"):
        open_weights(tmp_path / "x")
    with pytest.raises(NotFound):
        open_weights(tmp_path / "y")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unsafe, match="no regular file"):
        open_weights(tmp_path / "pipe")
