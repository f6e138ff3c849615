"""``fit``: Keras' ``Model.fit`` that survives any kill and goes on bit for bit."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
from keras.callbacks import History
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils
from keras.src.utils.io_utils import print_msg

from modelkeep.errors import ModelkeepError, UsageError
from modelkeep.frameworks import keras as keras_door
from modelkeep.training.adoption.kinds import adopted_of
from modelkeep.training.adoption.placing import begun_epoch, place_in_keras
from modelkeep.training.interrupt import catch
from modelkeep.training.keras.callbacks import missing_callbacks, restore_callbacks
from modelkeep.training.keras.data import Order, source_of
from modelkeep.training.keras.exactness import findings, findings_in_step
from modelkeep.training.keras.feed import Feed
from modelkeep.training.keras.layers import LayerWatch, missing_layers, restore_layers
from modelkeep.training.keras.loop import Loop, Plan
from modelkeep.training.keras.progress import VARIABLES, Position, final_variables
from modelkeep.training.keras.replicas import Strategy, dealing, findings_in_replicas, strategy_of
from modelkeep.training.keras.setup import changes, setup_of
from modelkeep.training.keras.watch import Watch
from modelkeep.training.policy import Every, Retain, Schedule, check_policies, every
from modelkeep.training.refusal import refuse_or_mark
from modelkeep.training.run import Run


def fit(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    run: "Run | str",
    checkpoint: Every | None = None,
    retain: Retain | None = None,
    exact: bool = True,
    **arguments: Any,
) -> History:
    """Train ``model`` as ``Model.fit`` does; killed at any moment, the same call goes on bit for bit.

    The state of the training is saved in the background: weights, optimizer, metrics, random generators, the position
    in the data, callbacks and history. When the process dies, run the same script again: the run ends with the bits
    that it would have had. A finished run returns its history at once, and its final weights and the state of its
    callbacks are put back; with more ``epochs`` it goes on.

    Args:
        model: a compiled Keras model, on any backend.
        x: as for ``Model.fit``: arrays and tensors, a ``tf.data.Dataset``, a ``keras.utils.PyDataset``; a torch
            ``DataLoader``, a Grain dataset, or a generator as ``modelkeep.keras.Replay``.
        y: the targets, where ``x`` does not hold them.
        run: the run of ``keep.run(...)``, or a name: a run in the default keep (``$MODELKEEP_KEEP``, else ``./keep``).
        checkpoint: when to save, of ``modelkeep.every``; by default each epoch and every five minutes.
        retain: which checkpoints stay, of ``modelkeep.retain``; by default the last three.
        exact: False goes on where the resume could not be bit for bit, and marks the run.
        **arguments: all else that ``Model.fit`` takes.

    Returns: the ``History``, whole: with the epochs before the kill.

    Raises:
        NotExact: something in the model, the data or the callbacks cannot be resumed bit for bit; each with its fix.
        StateMismatch: the model's layers are not those of the checkpoint; each path, wanted and found.
        SystemExit: with code 75 after SIGTERM, the state saved: run the same command again.
        KeyboardInterrupt: after Ctrl-C, the state saved.

    When this returns, the final state is durable.
    """
    check_policies(checkpoint, retain)
    call = _Call.of(model, x, y, arguments)
    opened = Run.of(run, exact=exact)
    try:
        if retain is not None:
            opened.retain = retain
        _fit(model, call, opened, checkpoint or every(), exact=exact)
    except BaseException as error:
        _close(opened, error)
        raise
    if isinstance(run, str):
        opened.close()
    history: History = model.history
    return history


def _fit(model: keras.Model, call: "_Call", run: Run, when: Every, *, exact: bool) -> None:
    strategy = strategy_of(model)
    feed, validation = call.feed(run.seed, strategy), call.validation_feed(run.seed, strategy)
    _build(model, feed)
    setup = setup_of(model, feed, validation, call.settings(strategy))
    if _is_done(run, call.epochs, setup):
        what = "is finished" if run.finished is not None else f"is past epoch {call.epochs}"
        call.tell(f"run {run.name} {what}: its history is returned, and its weights are in the model")
        _put_end(model, run, call)
        return
    refuse_or_mark(run, findings(call.callbacks, call.data[0], feed), exact=exact)
    _tell_unknown_length(feed)
    run.check_fingerprint(exact=exact)
    watch, layers = Watch(call.callbacks), LayerWatch(model)
    with catch() as signals, dealing(model, strategy):
        plan = Plan(
            run=run,
            schedule=Schedule(when),
            signals=signals,
            feed=feed,
            validation=validation,
            setup=setup,
            on_step=lambda: refuse_or_mark(
                run,
                [
                    *findings_in_step(model.train_function),
                    *findings_in_replicas(model),
                    *watch.findings(),
                    *layers.findings(),
                ],
                exact=exact,
            ),
        )
        loop = call.loop(model, plan)
        _start(loop, run, call, exact=exact)
        _train(model, loop, call, plan)
        _finish(loop, run)


def _close(run: Run, error: BaseException) -> None:
    """Close after ``error``, which is the one to see."""
    try:
        run.close()
    except ModelkeepError as second:
        error.add_note(f"closing run {run.name} failed too: {second}")


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of ``Model.fit``, sorted by who takes them."""

    data: tuple[Any, Any, Any]
    validation: Any
    callbacks: list[Any]
    epochs: int
    initial_epoch: int
    verbose: Any
    shuffle: Any
    class_weight: Any
    batch_size: int | None
    rest: dict[str, Any]

    @classmethod
    def of(cls, model: keras.Model, x: Any, y: Any, arguments: dict[str, Any]) -> "_Call":
        if x is None:
            raise UsageError("fit needs data: pass x, such as arrays, a tf.data.Dataset or a keras.utils.PyDataset")
        signature = inspect.signature(keras.Model.fit)
        try:
            bound = signature.bind(model, x, y, **arguments)
        except TypeError as error:
            known = ", ".join(name for name in signature.parameters if name != "self")
            raise UsageError(f"modelkeep.keras.fit: {error}; it takes what Model.fit takes: {known}") from None
        bound.apply_defaults()
        given = dict(bound.arguments)
        for name in ("self", "x", "y"):
            given.pop(name)
        data = (x, y, given.pop("sample_weight"))
        validation, split = given.pop("validation_data"), given.pop("validation_split")
        if split and validation is None:
            data, validation = array_slicing.train_validation_split(data, validation_split=split)
        callbacks = given.pop("callbacks")
        return cls(
            data=data,
            validation=validation,
            callbacks=keras.tree.flatten(callbacks) if callbacks is not None else [],
            epochs=given.pop("epochs"),
            initial_epoch=given.pop("initial_epoch"),
            verbose=given.pop("verbose"),
            shuffle=given.pop("shuffle"),
            class_weight=given.pop("class_weight"),
            batch_size=given.pop("batch_size"),
            rest=given,
        )

    def settings(self, strategy: Strategy | None) -> dict[str, Any]:
        """What beside the data decides the bits."""
        replicas = {} if strategy is None else {"replicas": strategy.num_replicas_in_sync}
        return {"class_weight": self.class_weight, "validation_freq": self.rest["validation_freq"], **replicas}

    def tell(self, text: str) -> None:
        """Say something where Keras says how far it is; nothing with ``verbose=0``."""
        if self.verbose != 0:
            print_msg(f"modelkeep: {text}")

    def feed(self, seed: int, strategy: Strategy | None) -> Feed | None:
        source = source_of(
            self.data,
            batch_size=self.batch_size,
            steps=self.rest["steps_per_epoch"],
            class_weight=self.class_weight,
            order=Order(seed, bool(self.shuffle)),
            within_batches=self.shuffle == "batch",
        )
        return Feed(source, strategy) if source is not None else None

    def validation_feed(self, seed: int, strategy: Strategy | None) -> Feed | None:
        """Datasets have an order of their own, which a new process must find again; arrays come as they are."""
        if self.validation is None:
            return None
        data = data_adapter_utils.unpack_x_y_sample_weight(self.validation)
        source = source_of(
            data,
            batch_size=self.rest["validation_batch_size"] or self.batch_size,
            steps=self.rest["validation_steps"],
            class_weight=None,
            order=Order(seed, shuffle=False),
        )
        return Feed(source, strategy) if source is not None else None

    def loop(self, model: keras.Model, plan: Plan) -> Loop:
        return Loop(
            self.callbacks,
            plan,
            add_history=True,
            add_progbar=self.verbose != 0,
            verbose=self.verbose,
            epochs=self.epochs,
            steps=plan.feed.num_batches if plan.feed else self.rest["steps_per_epoch"],
            model=model,
        )

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """What ``Model.fit`` gets: the feeds where there are any, else what the caller gave."""
        rest = dict(self.rest)
        if plan.feed is not None:
            rest["steps_per_epoch"] = None
            given: dict[str, Any] = {"x": plan.feed, "shuffle": False}
        else:
            x, y, sample_weight = self.data
            given = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": self.batch_size}
            given |= {"shuffle": self.shuffle, "class_weight": self.class_weight}
        validation = self.validation
        if plan.validation is not None:
            rest |= {"validation_steps": None, "validation_batch_size": None}
            validation = plan.validation
        return {**given, **rest, "validation_data": validation}


def _tell_unknown_length(feed: Feed | None) -> None:
    if feed is not None and feed.source.steps is None:
        warnings.warn(
            "the dataset does not tell its length, so checkpoints are taken at the ends of epochs only; "
            "dataset.apply(tf.data.experimental.assert_cardinality(N)), or steps_per_epoch=, allows them inside",
            RuntimeWarning,
            stacklevel=3,
        )


def _build(model: keras.Model, feed: Feed | None) -> None:
    """Make every variable before anything is saved or put back: Keras makes some of them in the first step."""
    if feed is not None and feed.source.steps == 0:
        raise UsageError("the training data have no rows")
    if not model.compiled:
        raise UsageError("the model is not compiled; call model.compile(...) before fit")
    if feed is not None:
        with nullcontext() if feed.strategy is None else feed.strategy.scope():
            model._symbolic_build(data_batch=feed.source.sample())


def _start(loop: Loop, run: Run, call: "_Call", *, exact: bool) -> None:
    if run.resumed is None:
        loop.start_at(call.initial_epoch)
        loop.save("start", wait=True)
        return
    checkpoint, tree = run.resumed
    adopted = adopted_of(tree)
    if adopted is not None:
        place_in_keras(loop.model, adopted)
        loop.start_at(begun_epoch(adopted, checkpoint.step, loop.params["steps"]), step=checkpoint.step)
        loop.save("start", wait=True)
        call.tell(f"run {run.name} goes on from an adopted checkpoint at epoch {loop.position.epoch + 1}")
        return
    found = _changed(tree, loop.setup)
    at_an_end = checkpoint.reason in ("final", "fork")
    if at_an_end:
        for sentence in found.values():
            call.tell(f"run {run.name} goes on with another setting: {sentence}")
    else:
        refuse_or_mark(run, [f"since its last checkpoint {sentence}" for sentence in found.values()], exact=exact)
    if at_an_end and _is_compiled_anew(found):
        loop.begin_phase(tree)
    else:
        training = tree["training"]
        missing = missing_callbacks(loop.callbacks, training["callbacks"])
        missing += missing_layers(loop.model, training.get("layers", {}))
        refuse_or_mark(run, missing, exact=exact)
        loop.resume(tree, same_batches=not any(path.startswith("data") for path in found))
    at = loop.position
    place = "after the last batch" if at.batch and loop.is_epoch_trained else f"batch {at.batch + 1}"
    call.tell(f"run {run.name} goes on at epoch {at.epoch + 1}, {place} (step {at.step})")


def _train(model: keras.Model, loop: Loop, call: "_Call", plan: Plan) -> None:
    arguments = call.arguments(plan)
    if loop.position.batch and plan.feed is not None:
        plan.feed.skip, plan.feed.is_behind, loop.more_to_come = loop.position.batch, loop.is_epoch_trained, True
        with _without_finalizing(model.optimizer):
            epoch = loop.position.epoch
            model.fit(**arguments, callbacks=loop, initial_epoch=epoch, epochs=epoch + 1)
        plan.feed.skip, plan.feed.is_behind, loop.more_to_come = 0, False, False
    first = loop.position.epoch
    last = first if loop.stopped else max(call.epochs, first)
    model.fit(**arguments, callbacks=loop, initial_epoch=first, epochs=last)


@contextmanager
def _without_finalizing(optimizer: Any) -> Iterator[None]:
    """``Model.fit`` ends with the optimizer's averages put into the model, which is right for the last call only."""
    if optimizer is None:
        yield
        return
    optimizer.finalize_variable_values = lambda _: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values


def _finish(loop: Loop, run: Run) -> None:
    tree = loop.capture() | {"continue": loop.before_the_end}
    run.save(
        tree,
        step=loop.position.step,
        epoch=loop.position.epoch,
        metrics=loop.final_metrics(tree),
        reason="final",
        wait=True,
    )
    history: History = loop.model.history
    run.finish(
        {"epochs": loop.position.epoch, "stopped": loop.stopped, "history": history.history, "epoch": history.epoch}
    )


def _changed(tree: Any, setup: dict[str, Any]) -> dict[str, str]:
    """What is set up otherwise than when ``tree`` was saved; nothing where that was not recorded yet."""
    return changes(tree["training"].get("setup", setup), setup, tree)


def _is_compiled_anew(found: dict[str, str]) -> bool:
    return any(path.startswith(("compile", "layers")) for path in found)


def _is_done(run: Run, epochs: int, setup: dict[str, Any]) -> bool:
    """Whether nothing is left to do for a call of so many epochs: it was finished, or a later call is under way.

    A final checkpoint that is damaged is made again from the one before.
    """
    if run.resumed is None:
        return False
    checkpoint, tree = run.resumed
    if adopted_of(tree) is not None:
        return False
    at = Position.of(tree)
    if checkpoint.reason == "final":
        stopped = tree["training"]["stop"] and not _is_compiled_anew(_changed(tree, setup))
        return run.finished is not None and (bool(stopped) or at.epoch >= epochs)
    return at.epoch > epochs or (at.epoch == epochs and at.batch > 0)


def _put_end(model: keras.Model, run: Run, call: "_Call") -> None:
    """The history so far and the weights; optimizer and callbacks too, where it was this call that ended there."""
    assert run.resumed is not None
    checkpoint, tree = run.resumed
    stopped = bool(tree["training"]["stop"])
    is_ours = checkpoint.reason == "final" and (stopped or Position.of(tree).epoch == call.epochs)
    keras_door.load_into(model, final_variables(tree), parts=VARIABLES if is_ours else ("model",))
    history = next((one for one in call.callbacks if isinstance(one, History)), History())
    history.on_train_begin()
    model.history = history
    ended = [history, *(one for one in call.callbacks if is_ours and one is not history)]
    for callback in ended:
        callback._model = model  # set_model would begin: TensorBoard's makes files
    restore_callbacks(ended, tree["training"]["callbacks"])
    restore_layers(model, tree["training"].get("layers", {}))
