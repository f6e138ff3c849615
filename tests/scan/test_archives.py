"""Archives: tricks with indexes, names, links and sizes are findings; no flag or checksum hides a member."""

import io
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from modelkeep.budget import Budget
from modelkeep.scan import scan

HARM = b"cos\nsystem\n(S'true'\ntR."


def whats(report):
    return [one.what for one in report.findings]


def test_a_member_that_is_marked_as_encrypted_is_read_all_the_same(zipped, scanned):
    data = bytearray(zipped({"a/data.pkl": HARM}))
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1  # what torch ignores, and zipfile refuses
    report = scanned(bytes(data), "m.pt")
    assert any("os.system" in one for one in whats(report))
    assert any("encrypted" in one for one in whats(report))


def test_a_wrong_checksum_hides_nothing(zipped, scanned):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = bytearray(zipped({"a/data.pkl": HARM}, method))
        central = data.index(b"PK\x01\x02")
        data[central + 16 : central + 20] = b"abcd"
        assert any("os.system" in one for one in whats(scanned(bytes(data), "m.pt")))


def test_a_first_member_that_is_broken_hides_no_other(zipped, scanned):
    data = bytearray(zipped({"first": b"x" * 30, "a/data.pkl": HARM}))
    data[0:4] = b"XXXX"
    assert any("os.system" in one for one in whats(scanned(bytes(data), "m.pt")))
    data = bytearray(zipped({"first": b"x" * 3000, "a/data.pkl": HARM}, zipfile.ZIP_DEFLATED))
    data[40:44] = b"\xff\xff\xff\xff"
    assert any("os.system" in one for one in whats(scanned(bytes(data), "m.pt")))


def test_without_its_index_an_archive_is_read_by_its_local_headers(zipped, scanned):
    data = zipped({"a/data.pkl": HARM})
    report = scanned(data[: data.index(b"PK\x01\x02")], "m.pt")
    assert any("os.system" in one for one in whats(report))
    assert any("index" in one for one in whats(report))


def test_another_name_in_front_of_the_data_is_said(zipped, scanned):
    data = zipped({"a/data.txt": b"text"}).replace(b"a/data.txt", b"a/data.pkl", 1)
    report = scanned(data, "m.zip")
    assert any("in front of its data" in one for one in whats(report))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_of_one_name_are_said_and_all_read(scanned):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", HARM)
        archive.writestr("a/data.pkl", pickle.dumps({}))
    report = scanned(buffer.getvalue(), "m.pt")
    assert any("2 members of one name" in one for one in whats(report))
    assert any("os.system" in one for one in whats(report))


def test_a_script_before_an_archive_is_said(zipped, scanned):
    report = scanned(b"#!/bin/sh\necho hello\n" + zipped({"a.txt": b"x"}), "run.sh")
    assert report.verdict == "suspicious"


def test_an_archive_behind_other_bytes_is_read(zipped, scanned):
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    report = scanned(buffer.getvalue() + zipped({"data.pkl": HARM}), "x.npy")
    assert any("os.system" in one for one in whats(report))
    assert any("that is a zip archive too" in one for one in whats(report))


def test_members_that_the_index_does_not_name_are_said(zipped, scanned):
    hidden = zipped({"hidden.pkl": HARM})
    local = hidden[: hidden.index(b"PK\x01\x02")]
    data = zipped({"a.txt": b"x", "b.txt": b"y"})
    second = data.index(b"PK\x03\x04", 4)
    central = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    data = bytearray(data[:second] + local + data[second:])
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[entry + 42 : entry + 46] = struct.pack("<I", second + len(local))
    place = end + len(local)
    data[place + 16 : place + 20] = struct.pack("<I", central + len(local))
    assert any("that the index does not name" in one for one in whats(scanned(bytes(data), "m.zip")))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:\\x", "..\\x"])
def test_names_that_lead_out_are_unsafe(name, zipped, tarred, scanned):
    assert scanned(zipped({name: b"x"}), "m.zip").verdict == "unsafe"
    assert scanned(tarred({name: b"x"}), "m.tar").verdict == "unsafe"


def test_links_in_archives_are_unsafe(scanned):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("assets")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    (found,) = scanned(buffer.getvalue(), "m.zip").findings
    assert found.what == "a symbolic link to /etc"
    for kind, target in ((tarfile.SYMTYPE, "../../etc"), (tarfile.LNKTYPE, "/etc/passwd"), (tarfile.FIFOTYPE, "")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("a")
            info.type, info.linkname = kind, target
            archive.addfile(info)
        assert scanned(buffer.getvalue(), "m.tar").verdict == "unsafe"


def test_a_bomb_is_a_finding_and_stays_small(zipped, scanned):
    data = zipped({"config.json": b" " * (200 << 20)}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    report = scanned(data, "m.keras")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.verdict == "unsafe"
    assert peak < 20 << 20


def test_a_bomb_that_lies_about_its_size_is_unpacked_no_further_than_it_says(zipped, scanned):
    data = bytearray(zipped({"config.json": b" " * (100 << 20)}, zipfile.ZIP_DEFLATED))
    for at in (data.index(b"PK\x01\x02") + 24, 22):
        data[at : at + 4] = struct.pack("<I", 1000)
    tracemalloc.start()
    report = scanned(bytes(data), "m.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("more than the 1,000 bytes" in one for one in whats(report))
    assert peak < 20 << 20


def test_many_small_bombs_are_one_and_many_names_of_the_same_bytes_are_read_once(zipped, scanned):
    data = zipped({f"{index}.txt": b" " * (10 << 20) for index in range(8)}, zipfile.ZIP_DEFLATED)
    assert any("unpack to 83,886,080" in one for one in whats(scanned(data, "m.zip")))
    data = zipped({"a.pkl": HARM})
    central, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[central:end]
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 500, 500, 500 * len(entry), central, 0)
    report = scanned(data[:central] + entry * 500 + tail, "m.zip")
    assert report.files == 2
    assert any("os.system" in one for one in whats(report))
    assert any("overlaps" in one for one in whats(report))


def test_archives_within_archives_end_somewhere(zipped, scanned):
    data = b"x"
    for _ in range(20):
        data = zipped({"a.zip": data})
    assert scanned(data, "m.zip").verdict == "limit"


def test_many_members_are_over_the_limit(zipped, scanned):
    data = zipped({f"{index}": b"" for index in range(50)})
    assert scanned(data, "m.zip", Budget(entries=10)).verdict == "limit"


def test_an_archive_that_is_cut_short_is_damaged(zipped, scanned):
    data = zipped({"a.txt": b"x" * 1000, "b.txt": b"y" * 1000})
    for size in (len(data) - 10, len(data) // 2, 40):
        assert scanned(data[:size], "m.zip").verdict == "damaged"


def test_plain_archives_are_clean(zipped, tarred, scanned):
    members = {"a/config.json": b"{}", "a/notes.txt": b"hello", "a/empty": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        assert scanned(zipped(members, method), "m.zip").findings == ()
    assert scanned(tarred(members), "m.tar").findings == ()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("streamed.txt", "w") as member:
        member.write(b"with a descriptor behind its data")
    assert scanned(buffer.getvalue(), "m.zip").findings == ()


def test_links_that_lead_out_of_a_folder_are_unsafe_and_not_followed(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to("/etc/passwd")
    (folder / "outside").symlink_to("/etc")
    (folder / "inside").symlink_to("config.json")
    (folder / "config.json").write_text("{}")
    assert [(one.where, one.severity) for one in scan(folder).findings] == [
        ("outside", "unsafe"),
        ("weights.bin", "unsafe"),
    ]


def test_the_cache_of_hugging_face_is_a_folder_of_links_to_its_blobs(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(b"{}")
    (blobs / "2").write_bytes(HARM)
    (snapshot / "config.json").symlink_to("../../blobs/1")
    assert scan(snapshot).findings == ()
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/2")
    assert scan(snapshot).verdict == "unsafe"


def test_pipes_are_not_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "weights.bin")
    assert scan(tmp_path).verdict == "unsafe"


def test_code_of_a_hugging_face_folder_is_said(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling_x.XModel"}}')
    (tmp_path / "modeling_x.py").write_text("import os\n")
    (tmp_path / "native.so").write_bytes(b"\x7fELF" + bytes(100))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    found = {one.where: one.severity for one in scan(tmp_path).findings}
    assert found == {
        "config.json": "unsafe", "modeling_x.py": "suspicious", "native.so": "unsafe",
        "model.safetensors.index.json": "unsafe",
    }  # fmt: skip
