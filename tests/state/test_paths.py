import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.errors import UnsupportedState
from modelkeep.state import flatten
from modelkeep.state.paths import PATH_BYTES, Pattern, child, segment

TEXT_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.one_of(st.integers(), TEXT_KEYS, st.sampled_from(["", "a/b", "3", "-3", "$x", "%33", "%", "*", "**", "#"]))


@given(KEYS, KEYS)
def test_two_keys_have_the_same_segment_only_when_they_are_the_same_key(one, other):
    assert (segment(one) == segment(other)) == (one == other)


@given(st.lists(KEYS, min_size=1, max_size=4), st.lists(KEYS, min_size=1, max_size=4))
def test_two_places_in_a_tree_never_share_a_path(one, other):
    def path(keys):
        name = ""
        for key in keys:
            name = child(name, key)
        return name

    assert (path(one) == path(other)) == (one == other)


@given(KEYS)
def test_a_segment_has_no_sign_that_paths_patterns_or_shards_use(key):
    assert not set(segment(key)) & set("/*#\n\0")
    assert segment(key) not in ("", "__metadata__")


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**", "", True),
        ("**", "a/b", True),
        ("*", "a", True),
        ("*", "a/b", False),
        ("model/**", "model", True),
        ("model/**", "model/a/b", True),
        ("model/**", "models/a", False),
        ("**/kernel", "kernel", True),
        ("**/kernel", "a/b/kernel", True),
        ("**/kernel", "a/xkernel", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/**/z", "a/z", True),
        ("optimizer/*/kernel", "optimizer/dense/kernel", True),
        ("optimizer/*/kernel", "optimizer/a/b/kernel", False),
        ("den*_1", "dense_1", True),
        ("a.c", "abc", False),
        ("model/", "model", True),
    ],
)
def test_patterns_match_by_segments(pattern, path, matches):
    assert Pattern(pattern).matches(path) is matches


def test_a_pattern_of_many_stars_is_matched_in_time():
    assert not Pattern("/".join(["**"] * 60 + ["x"])).matches("/".join(["a"] * 60))


def test_a_path_longer_than_a_shard_header_can_carry_is_refused():
    with pytest.raises(UnsupportedState, match="use shorter keys"):
        flatten({"k" * (PATH_BYTES + 1): 1})


def test_a_key_that_is_not_unicode_is_refused():
    with pytest.raises(UnsupportedState, match="lone surrogate"):
        flatten({"model": {"\ud800": 1}})
