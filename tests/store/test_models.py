import math
import secrets
from typing import Any

import numpy as np
import pytest

from modelkeep.backend import Backend, MemoryBackend
from modelkeep.errors import Conflict, Damaged, InvalidName, LimitExceeded, NotFound, UsageError
from modelkeep.snapshot.canonical import seal
from modelkeep.store import ModelRecord, Parent, Store, journal
from modelkeep.values import Json


def saved(store: Store, value: int, **meta: Json) -> Any:
    """A state of a model that tells its value."""
    return store.save({"weights": np.full(8, value, "f4"), "value": value}, meta={"kind": "model", **meta})


def publish(store: Store, name: str = "digits", value: int = 0, **options: Any) -> Any:
    return store.model(name).publish(saved(store, value), **options)


@pytest.fixture
def model(store: Store) -> ModelRecord:
    """Three versions of a model."""
    for value in (1, 2, 3):
        publish(store, value=value)
    return store.model("digits")


def fresh(model: ModelRecord) -> ModelRecord:
    """The same model as another process sees it."""
    return ModelRecord(model.backend, model.name)


def numbers(model: ModelRecord, *, removed: bool = False) -> list[int]:
    return [one.number for one in fresh(model).versions(removed=removed)]


# Versions


def test_a_model_exists_once_it_has_a_version(store: Store) -> None:
    model = store.model("digits")
    assert not model.exists()
    assert (model.versions(), model.last(), model.aliases(), store.models()) == ([], None, {}, [])
    publish(store)
    assert fresh(model).exists()
    assert store.models() == ["digits"]
    assert store.runs() == []


def test_a_version_comes_back_as_it_was_published(store: Store) -> None:
    parent = publish(store, "base", 1)
    metrics = {"loss": math.nan, "accuracy": 0.5, "worst": math.inf, "third": 1 / 3}
    info: dict[str, Json] = {"source": "run:cnn@1200", "by": ["one", None, {"two": 2.5}]}
    made = publish(store, value=2, metrics=metrics, parents=[parent], info=info)
    found = fresh(store.model("digits")).version(1)
    assert math.isnan(found.metrics["loss"])
    assert {**found.metrics, "loss": 0} == {**metrics, "loss": 0}
    assert found.parents == (Parent("base", 1, parent.snapshot_id),)
    for name in ("model", "number", "snapshot_id", "time", "info", "parents", "removed", "ref"):
        assert getattr(found, name) == getattr(made, name)
    assert found.ref == "model:digits@1"
    assert found.info == info


def test_versions_are_listed_newest_first_and_the_last_is_the_newest(model: ModelRecord, store: Store) -> None:
    for value in range(4, 13):
        publish(store, value=value)
    assert numbers(model) == list(range(12, 0, -1))
    newest = fresh(model).last()
    assert newest is not None
    assert newest.number == 12


def test_one_snapshot_may_have_two_versions(store: Store) -> None:
    first, second = publish(store, value=1), publish(store, value=1)
    assert (first.number, second.number) == (1, 2)
    assert first.snapshot_id == second.snapshot_id


def test_publishing_and_the_newest_read_no_older_version(
    store: Store, model: ModelRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of ten thousand versions is published and found as fast as one of ten."""
    for value in range(4, 24):
        publish(store, value=value)
        model.alias("champion", value)
    seen: list[str] = []
    listing, read = model.backend.list, model.backend.read

    def listed(prefix: str, **options: Any) -> Any:
        for entry in listing(prefix, **options):
            seen.append(entry.key)
            yield entry

    def reading(key: str, *arguments: Any, **options: Any) -> Any:
        seen.append(key)
        return read(key, *arguments, **options)

    monkeypatch.setattr(model.backend, "list", listed)
    monkeypatch.setattr(model.backend, "read", reading)
    publish(store, value=24)
    again = fresh(model)
    newest = again.last()
    assert newest is not None
    assert newest.number == 24
    again.alias("champion", 24)
    assert again.aliases() == {"champion": 24}
    assert len([key for key in seen if "/versions/" in key]) <= 8
    assert len([key for key in seen if "/aliases/" in key]) <= 8


def test_a_checkpoint_is_not_published_since_its_run_may_let_it_go(store: Store) -> None:
    checkpoint = store.save({"step": 1}, meta={"kind": "checkpoint", "run": "cnn"})
    with pytest.raises(UsageError, match="promote it"):
        store.model("digits").publish(checkpoint)
    assert not store.model("digits").exists()


def test_what_is_not_there_is_not_published(store: Store, model: ModelRecord) -> None:
    elsewhere = publish(Store.open(MemoryBackend(secrets.token_hex(8))), "base")
    lost = saved(store, 9)
    store.delete_snapshot(lost.id)
    with pytest.raises(NotFound, match="no snapshot"):
        model.publish(lost)
    with pytest.raises(NotFound, match="no version 1 of model base"):
        publish(store, parents=[elsewhere])
    with pytest.raises(NotFound, match="another snapshot"):
        publish(store, parents=[Parent("digits", 1, lost.id)])
    with pytest.raises(UsageError, match="nan"):
        publish(store, info={"loss": math.nan})
    assert numbers(model) == [3, 2, 1]


@pytest.mark.parametrize("number", [0, -1, 4, 10**10, 10**17])
def test_a_version_that_never_was_is_answered_with_the_newest(model: ModelRecord, number: int) -> None:
    for verb in (model.version, model.remove, lambda one: model.alias("champion", one)):
        with pytest.raises(NotFound, match=f"no version {number} of model digits .*the newest is 3"):
            verb(number)


@pytest.mark.parametrize("name", ["../other", "", "a b", "con", ".hidden", "a/b", "x" * 129])
def test_a_name_that_leads_elsewhere_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidName, match="model name"):
        store.model(name)


# Removing


def test_a_removed_version_is_not_found_and_its_number_is_never_used_again(store: Store, model: ModelRecord) -> None:
    for number in (3, 1):
        model.remove(number)
        with pytest.raises(NotFound, match=f"version {number} of model digits was removed"):
            fresh(model).version(number)
    assert numbers(model) == [2]
    newest = fresh(model).last()
    assert newest is not None
    assert newest.number == 2
    assert publish(store, value=9).number == 4
    history = fresh(model).versions(removed=True)
    assert [(one.number, one.removed) for one in history] == [(4, False), (3, True), (2, False), (1, True)]
    with pytest.raises(NotFound, match="was removed"):
        model.alias("champion", 1)


def test_removing_twice_is_fine_and_leaves_no_further_step(model: ModelRecord) -> None:
    model.remove(2)
    before = [entry.key for entry in model.backend.list("models")]
    fresh(model).remove(2)
    assert [entry.key for entry in model.backend.list("models")] == before


def test_what_an_alias_points_at_is_not_removed_until_it_has_moved(model: ModelRecord) -> None:
    model.alias("champion", 2)
    model.alias("candidate", 2)
    with pytest.raises(Conflict, match="version 2 of model digits is needed by alias candidate, alias champion"):
        fresh(model).remove(2)
    assert numbers(model) == [3, 2, 1]
    model.alias("champion", 3)
    model.alias("candidate", None)
    fresh(model).remove(2)
    assert numbers(model) == [3, 1]
    assert fresh(model).aliases() == {"champion": 3}


def test_a_parent_is_not_removed_until_its_children_are(store: Store, model: ModelRecord) -> None:
    child = publish(store, value=4, parents=[model.version(1)])
    other = publish(store, "letters", 5, parents=[model.version(1)])
    with pytest.raises(Conflict, match="needed by model:digits@4, model:letters@1"):
        fresh(model).remove(1)
    store.model("letters").remove(other.number)
    with pytest.raises(Conflict, match="needed by model:digits@4;"):
        fresh(model).remove(1)
    model.remove(child.number)
    model.remove(1)
    assert numbers(model) == [3, 2]


def test_a_removal_that_was_begun_by_a_process_that_died_does_not_stand_in_the_way(
    store: Store, model: ModelRecord
) -> None:
    assert fresh(model)._removals.begin(2) == 1
    assert numbers(model) == [3, 2, 1]
    fresh(model).alias("champion", 2)
    assert fresh(model)._removals.begin(3) == 1
    fresh(model).remove(3)
    assert numbers(model) == [2, 1]
    assert fresh(model).aliases() == {"champion": 2}


# Aliases


def test_an_alias_moves_and_keeps_its_history(model: ModelRecord) -> None:
    first = model.alias("champion", 1, reason="the first")
    second = fresh(model).alias("champion", 3, expect=1)
    back = fresh(model).alias("champion", 1, expect=3, reason="rolled back")
    assert (first, second, back) == tuple(reversed(fresh(model).history("champion")))
    assert [(one.number, one.version, one.reason) for one in fresh(model).history("champion")] == [
        (3, 1, "rolled back"), (2, 3, ""), (1, 1, "the first"),
    ]  # fmt: skip
    assert fresh(model).aliases() == {"champion": 1}
    found = fresh(model).aliased("champion")
    assert found is not None
    assert (found.number, found.snapshot_id) == (1, model.version(1).snapshot_id)


def test_a_removed_alias_points_nowhere_and_may_come_back(model: ModelRecord) -> None:
    assert model.alias("champion", None) is None
    assert model.history("champion") == []
    model.alias("champion", 1)
    gone = model.alias("champion", None, expect=1)
    assert gone is not None
    assert (gone.number, gone.version, gone.snapshot_id) == (2, None, None)
    assert fresh(model).aliases() == {}
    assert fresh(model).aliased("champion") is None
    assert model.alias("champion", None) == gone
    model.alias("champion", 2, expect=0)
    assert fresh(model).aliases() == {"champion": 2}
    assert [one.version for one in model.history("champion")] == [2, None, 1]


def test_an_alias_that_is_there_already_makes_no_move(model: ModelRecord) -> None:
    first = model.alias("champion", 2, reason="first")
    assert fresh(model).alias("champion", 2, expect=2, reason="again") == first
    assert fresh(model).history("champion") == [first]


@pytest.mark.parametrize("expected", [0, 1, 3, 99])
def test_an_alias_that_is_not_where_it_was_expected_is_not_moved(model: ModelRecord, expected: int) -> None:
    model.alias("champion", 2)
    where = f"at version {expected}" if expected else "nowhere"
    with pytest.raises(Conflict, match=f"champion of model digits is at version 2, not {where}"):
        model.alias("champion", 3, expect=expected)
    with pytest.raises(Conflict, match="is nowhere, not at version 1"):
        model.alias("candidate", 3, expect=1)
    assert fresh(model).aliases() == {"champion": 2}


@pytest.mark.parametrize("name", ["3", "007", "v3", "V12", "last", "Last", "best", "latest", "a b", "../x", "", "nul"])
def test_an_alias_that_would_be_taken_for_something_else_is_refused(model: ModelRecord, name: str) -> None:
    for verb in (lambda: model.alias(name, 1), lambda: model.history(name), lambda: model.aliased(name)):
        with pytest.raises(InvalidName, match="alias name"):
            verb()


# What somebody else may have written

VERSION: dict[str, Json] = {
    "model": "digits", "number": 4, "snapshot": "0" * 64, "time": 0.5, "metrics": {}, "parents": [], "info": {},
}  # fmt: skip
PARENT: dict[str, Json] = {"model": "digits", "version": 1, "snapshot": "0" * 64}


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "letters"},
        {"model": 3},
        {"number": 3},
        {"number": "4"},
        {"snapshot": "x"},
        {"snapshot": "../../../../etc/passwd"},
        {"snapshot": None},
        {"time": "now"},
        {"metrics": {"loss": "x"}},
        {"metrics": {"loss": {"$": "float", "value": "north"}}},
        {"metrics": []},
        {"parents": {}},
        {"parents": [3]},
        {"parents": [{}]},
        {"parents": [{**PARENT, "version": "1"}]},
        {"parents": [{**PARENT, "snapshot": 1}]},
        {"parents": [{**PARENT, "model": None}]},
        {"info": None},
    ],
)
def test_a_sealed_version_that_makes_no_sense_is_damage_that_names_its_key(
    store: Store, model: ModelRecord, wrong: dict[str, Json]
) -> None:
    key = "models/digits/versions/9999999995.json"
    store.backend.create(key, seal({**VERSION, **wrong}))
    for verb in (model.versions, model.last, lambda: model.version(4), model.named_snapshots, lambda: model.remove(1)):
        with pytest.raises(Damaged) as caught:
            verb()
        assert caught.value.key == key
        assert str(caught.value).count(key) == 1
    told: list[str] = []
    others = [one.number for one in model.iterate_versions(on_damage=lambda key, _: told.append(key))]
    assert (others, told) == ([3, 2, 1], [key])
    assert key in {damage.key for damage in Store.open(store.backend).verify().damages}
    assert publish(store, value=5).number == 5
    assert numbers_but_damaged(model) == [5, 3, 2, 1]


def numbers_but_damaged(model: ModelRecord) -> list[int]:
    return [one.number for one in fresh(model).iterate_versions(on_damage=lambda *_: None)]


@pytest.mark.parametrize("field", sorted(VERSION))
def test_a_version_that_lacks_a_field_is_damage(store: Store, model: ModelRecord, field: str) -> None:
    document = {name: value for name, value in VERSION.items() if name != field}
    store.backend.create("models/digits/versions/9999999995.json", seal(document))
    with pytest.raises(Damaged, match=r"versions/9999999995\.json"):
        model.last()


MOVE: dict[str, Json] = {
    "model": "digits", "alias": "champion", "number": 2, "version": 1, "snapshot": "0" * 64, "time": 0.5, "reason": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"model": "letters"}, {"alias": "candidate"}, {"number": 1}, {"version": "1"}, {"version": None},
     {"snapshot": None}, {"snapshot": "../x"}, {"time": None}],
)  # fmt: skip
def test_a_sealed_move_that_makes_no_sense_is_damage_and_no_older_one_stands_in(
    store: Store, model: ModelRecord, wrong: dict[str, Json]
) -> None:
    model.alias("champion", 1)
    key = "models/digits/aliases/champion/9999999997.json"
    store.backend.create(key, seal({**MOVE, **wrong}))
    for verb in (
        model.aliases,
        lambda: model.aliased("champion"),
        lambda: model.history("champion"),
        lambda: model.alias("champion", 3, expect=1),
        lambda: model.remove(2),
        lambda: store.resolve("model:digits@champion"),
    ):
        with pytest.raises(Damaged) as caught:
            verb()
        assert caught.value.key == key
    told: list[str] = []
    assert [one.number for one in model.history("champion", on_damage=lambda key, _: told.append(key))] == [1]
    assert model.aliases(on_damage=lambda key, _: told.append(key)) == {}
    assert told == [key, key]
    assert key in {damage.key for damage in Store.open(store.backend).verify().damages}
    assert numbers(model) == [3, 2, 1]
    model.alias("champion", 3)  # whoever expects nothing may mend it
    assert model.aliases() == {"champion": 3}


def test_an_alias_does_not_lead_to_another_model_under_its_number(store: Store, model: ModelRecord) -> None:
    """A version was lost by accident, and its number went to the next publisher."""
    model.alias("champion", 3)
    key = "models/digits/versions/9999999996.json"
    store.backend.delete(key)
    with pytest.raises(Damaged, match=f"{key} is gone, and alias champion"):
        fresh(model).aliased("champion")
    assert publish(store, value=77).number == 3
    with pytest.raises(Damaged, match="not the version that alias champion was moved to"):
        store.resolve("model:digits@champion")
    assert [damage.key for damage in Store.open(store.backend).verify().damages] == [key]


@pytest.mark.parametrize(
    "wrong", [{"model": "letters"}, {"version": 1}, {"step": "maybe"}, {"step": None}, {"number": 9}]
)
def test_a_removal_that_makes_no_sense_is_damage_and_takes_nothing(
    store: Store, model: ModelRecord, wrong: dict[str, Json]
) -> None:
    key = "models/digits/removals/9999999997/9999999998.json"
    step: dict[str, Json] = {"model": "digits", "version": 2, "number": 1, "step": "removed", "time": 0.5}
    store.backend.create(key, seal({**step, **wrong}))
    for verb in (model.versions, lambda: model.version(2), lambda: model.remove(2), model.named_snapshots):
        with pytest.raises(Damaged) as caught:
            verb()
        assert caught.value.key == key
    told: list[str] = []
    assert [one.number for one in model.iterate_versions(on_damage=lambda key, _: told.append(key))] == [3, 2, 1]
    assert told == [key]
    assert [damage.key for damage in Store.open(store.backend).verify().damages] == [key]


@pytest.mark.parametrize("place", ["versions", "aliases/champion", "removals/9999999997"])
def test_a_flipped_bit_is_damage_that_names_its_key(store: Store, model: ModelRecord, place: str) -> None:
    model.alias("champion", 1)
    model.remove(2)
    (key, *_) = [entry.key for entry in store.backend.list(f"models/digits/{place}")]
    data = bytearray(store.backend.read(key))
    data[len(data) // 2] ^= 1
    store.backend.delete(key)
    store.backend.create(key, bytes(data))
    with pytest.raises(Damaged, match=key):
        {
            "versions": fresh(model).versions,
            "aliases/champion": fresh(model).aliases,
            "removals/9999999997": fresh(model).versions,
        }[place]()
    assert key in {damage.key for damage in Store.open(store.backend).verify().damages}


def test_a_document_that_is_too_long_is_refused_before_it_is_written(
    store: Store, model: ModelRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "DOCUMENT_BYTES", 1000)
    with pytest.raises(LimitExceeded, match="keep what is large in the state"):
        publish(store, info={"card": "x" * 1000})
    assert numbers(model) == [3, 2, 1]


def test_foreign_files_beside_a_model_are_passed_over_and_named(backend: Backend) -> None:
    store = Store.open(backend)
    publish(store, value=1)
    model = store.model("digits")
    model.alias("champion", 1)
    foreign = [
        "models/digits/aliases/last/9999999998.json",
        "models/digits/aliases/notes.txt",
        "models/digits/card.md",
        "models/digits/removals/old/9999999998.json",
        "models/digits/versions/1.json",
        "models/digits/versions/9999999998.json.orig",
    ]
    for key in foreign:
        backend.create(key, b"mine")
    again = Store.open(backend)
    assert numbers(model) == [1]
    assert fresh(model).aliases() == {"champion": 1}
    assert publish(again, value=2).number == 2
    report = again.verify()
    assert report.ok or {damage.key for damage in report.damages} <= set(foreign)
    assert set(report.foreign) >= set(foreign) - {"models/digits/aliases/last/9999999998.json"}


# REFs


def value_of(store: Store, ref: str) -> Any:
    return store.load(store.resolve(ref))["value"]


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ("model:digits@2", 2),
        ("model:digits@002", 2),
        ("model:digits@champion", 1),
        ("model:digits@last", 3),
        ("model:digits", 3),
        ("digits", 3),
        ("digits@2", 2),
        ("digits@champion", 1),
    ],
)
def test_a_ref_names_the_version_that_it_says(store: Store, model: ModelRecord, ref: str, value: int) -> None:
    model.alias("champion", 1)
    assert value_of(store, ref) == value


def started(store: Store, name: str, step: int = 10) -> None:
    run = store.run(name)
    snapshot = store.save({"value": step}, meta={"kind": "checkpoint", "run": name, "step": step})
    run.commit_checkpoint(run.start_attempt({}), snapshot, step=step, epoch=1)


def test_a_name_of_a_run_and_of_a_model_needs_its_kind(store: Store, model: ModelRecord) -> None:
    started(store, "digits")
    with pytest.raises(UsageError, match="write run:digits@last or model:digits@last"):
        store.resolve("digits")
    assert value_of(store, "run:digits") == 10
    assert value_of(store, "model:digits") == 3


def test_what_is_not_there_is_answered_with_close_names(store: Store, model: ModelRecord) -> None:
    model.alias("champion", 1)
    started(store, "cnn")
    for ref, message in {
        "model:digit": "no model digit .*there is digits",
        "model:cnn": "no model cnn .*run:cnn is a run; there is digits",
        "run:digits": "no run digits",
        "digit@champion": "no run digit .*, and no such model; there is cnn, and the models digits",
        "model:digits@champio": r"no alias champio; it has champion \(version 1\), and versions",
        "model:digits@v2": "write model:digits@2",
        "model:digits@9": "no version 9 .*the newest is 3",
        "digits@epoch:3": "no alias epoch:3",
    }.items():
        with pytest.raises(NotFound, match=message):
            store.resolve(ref)


def test_an_alias_that_was_removed_is_not_found_and_no_older_version_stands_in(
    store: Store, model: ModelRecord
) -> None:
    model.alias("champion", 1)
    model.alias("champion", None)
    with pytest.raises(NotFound, match="no alias champion; it has nothing yet"):
        store.resolve("model:digits@champion")


def test_a_model_all_of_whose_versions_were_removed_says_so(store: Store, model: ModelRecord) -> None:
    for number in (1, 2, 3):
        model.remove(number)
    with pytest.raises(NotFound, match="every version of model digits was removed"):
        store.resolve("model:digits")


# Verification


def test_a_keep_with_models_is_whole_and_holds_nothing_foreign(store: Store, model: ModelRecord) -> None:
    model.alias("champion", 1)
    model.alias("champion", 2)
    model.remove(1)
    report = Store.open(store.backend).verify()
    assert (report.damages, report.foreign, report.newer) == ((), (), ())


def test_a_version_whose_snapshot_is_missing_or_damaged_is_named(store: Store, model: ModelRecord) -> None:
    gone, flipped = model.version(1), model.version(3)
    store.delete_snapshot(gone.snapshot_id)
    (shard,) = store.snapshot(flipped.snapshot_id).shards
    key = f"shards/{shard[:2]}/{shard}.safetensors"
    data = bytearray(store.backend.read(key))
    data[-1] ^= 1
    store.backend.delete(key)
    store.backend.create(key, bytes(data))
    damages = Store.open(store.backend).verify().damages
    assert {(damage.key.partition("/")[0], damage.refs, damage.tensors) for damage in damages} == {
        ("snapshots", ("model:digits@1",), ()),
        ("shards", ("model:digits@3",), ("weights",)),
    }


def test_the_missing_snapshot_of_a_removed_version_is_no_damage(store: Store, model: ModelRecord) -> None:
    gone = model.version(1)
    model.remove(1)
    store.delete_snapshot(gone.snapshot_id)
    assert Store.open(store.backend).verify().ok
