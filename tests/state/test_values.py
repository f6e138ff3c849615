import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.errors import InvalidName, InvalidRef
from modelkeep.values import Ref, check_name


@pytest.mark.parametrize("name", ["a", "cnn-1.2_x", "_", "0", "a" * 128, "console", "com10"])
def test_a_plain_name_is_taken(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("a b", "' ' at position 1"),
        ("a/b", "'/' at position 1"),
        ("é", "'é' at position 0"),
        ("a\n", r"'\\n' at position 1"),
        ("..", "begins with '.'"),
        (".hidden", "begins with '.'"),
        ("-x", "begins with '-'"),
        ("a.", "ends with '.'"),
        ("a" * 129, "129 characters"),
        ("CON", "device"),
        ("nul.txt", "device"),
        ("lpt1", "device"),
        (3, "not str"),
    ],
)
def test_a_name_that_some_place_refuses_is_refused_with_one_that_is_taken(name, fault):
    with pytest.raises(InvalidName, match=fault) as caught:
        check_name(name)
    suggestion = str(caught.value).rsplit("such as ", 1)[1].strip("'")
    assert check_name(suggestion)


@given(st.text())
def test_the_name_that_is_suggested_can_always_be_taken(text):
    try:
        check_name(text)
    except InvalidName as error:
        check_name(str(error).rsplit("such as ", 1)[1].strip("'"))


ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("run:cnn@1200", Ref("run", "cnn", "1200")),
        ("run:cnn@last", Ref("run", "cnn", "last")),
        ("run:cnn@best:val_loss", Ref("run", "cnn", "best:val_loss")),
        ("run:cnn@best:val/acc", Ref("run", "cnn", "best:val/acc")),
        ("run:cnn@epoch:3", Ref("run", "cnn", "epoch:3")),
        ("run:cnn", Ref("run", "cnn", "last")),
        ("model:digits@3", Ref("model", "digits", "3")),
        ("model:digits@champion", Ref("model", "digits", "champion")),
        ("cnn@last", Ref("", "cnn", "last")),
        ("cnn", Ref("", "cnn", "last")),
        (ID, Ref("snapshot", ID, "")),
        ("01234567", Ref("snapshot", "01234567", "")),
        ("0123456", Ref("", "0123456", "last")),
        ("run:01234567", Ref("run", "01234567", "last")),
        ("snapshot:01234567", Ref("snapshot", "01234567", "")),
        ("s3://bucket/keep#model:digits@champion", Ref("model", "digits", "champion", "s3://bucket/keep")),
        ("./a#b@c#cnn", Ref("", "cnn", "last", "./a#b@c")),
    ],
)
def test_a_ref_is_read_and_written_back(text, ref):
    assert Ref.parse(text) == ref
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "run:", "run:@last", "run:cnn@", "run:cnn@best", "run:cnn@best:", "run:cnn@epoch:x", "run:cnn@first",
        "run:cnn@-1", "model:digits@best:loss", "model:digits@epoch:3", "job:cnn", "run:a b", "a@b@c", "#cnn", "keep#",
        "snapshot:xyz", "snapshot:01234567@last", "run:cnn@best:a b", "run:x:y@last", None, "run:cnn@" + "9" * 40,
    ],
)  # fmt: skip
def test_what_is_no_ref_is_refused(text):
    with pytest.raises(InvalidRef):
        Ref.parse(text)


@given(st.text())
def test_any_text_is_a_ref_or_a_typed_error(text):
    try:
        ref = Ref.parse(text)
    except InvalidRef:
        return
    assert Ref.parse(str(ref)) == ref
