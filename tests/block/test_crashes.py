"""The crashes that are chosen are ones that a disk could have had."""

from .crashes import sample
from .expected import Expected
from .log import Event, Flush, Mark, Write, pack, unpack

LOG: list[Event] = [
    Write(0, bytes(4096)),
    Flush(),
    Mark("saving cnn 1"),
    Write(4096, b"a" * 4096),
    Write(8192, b"b" * 512),
    Flush(),
    Mark("saved cnn 1"),
    Write(0, b"c" * 4096),
]


def test_a_log_comes_back_as_it_was_written() -> None:
    assert list(unpack(b"".join(pack(event) for event in LOG))) == LOG


def test_a_crash_has_everything_before_a_flush_and_parts_of_what_was_written_until_the_cut() -> None:
    crashes = sample(LOG, 1000, seed=1, sector=512)
    assert crashes == sample(LOG, 1000, seed=1, sector=512)
    assert len(set(crashes)) == len(crashes) > 10
    for crash in crashes:
        assert isinstance(LOG[crash.flush], Flush)
        for part in crash.parts:
            written = LOG[part.index]
            assert isinstance(written, Write)
            assert crash.flush < part.index < crash.cut
            assert 0 <= part.first < part.past <= len(written.data)
    assert {crash.kind for crash in crashes} == {"none", "all", "prefix", "subset", "torn"}
    behind_the_acknowledgement = [crash for crash in crashes if "saved cnn 1" in crash.marks(LOG)]
    assert any(crash.parts == () for crash in behind_the_acknowledgement)


def test_what_is_promised_follows_from_the_marks() -> None:
    marks = [f"{word} cnn {step}" for step in (1, 2, 3) for word in ("saving", "saved")]
    assert Expected.of([]).required("cnn") == set()
    assert Expected.of(marks[:1]).required("cnn") == set()
    assert Expected.of(marks[:2]).required("cnn") == {1}
    assert Expected.of(marks[:4]).required("cnn") == {1, 2}
    assert Expected.of(marks[:5]).required("cnn") == {2}  # the retention of the third lets the first go
    assert Expected.of(marks).required("cnn") == {2, 3}
    assert Expected.of(["keeping 5", "kept 5 abc"]).kept == {"abc": 5}
