"""``Keep``: the face of a keep, and ``open``, which opens one."""

import html
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.backend import open_backend, staged
from modelkeep.budget import Budget
from modelkeep.errors import ModelkeepError, NotFound, UsageError
from modelkeep.model.load import Wish, load_version
from modelkeep.model.publish import Card, Request, publish
from modelkeep.snapshot import Snapshot
from modelkeep.store import GRACE_SECONDS, Checkpoint, Export, GcReport, ModelRecord, Move, Store, VerifyReport, Version
from modelkeep.store.layout import may_wait
from modelkeep.store.resolve import find_version, snapshot_and_version
from modelkeep.store.retention import valid_runs
from modelkeep.training.place import default_place
from modelkeep.values import Json, Ref

if TYPE_CHECKING:
    from modelkeep.runtime.predictor import Predictor
    from modelkeep.training.adoption.adopting import Adopted
    from modelkeep.training.run import Run
    from modelkeep.training.summary import RunSummary

Tree = Any


def open(  # noqa: A001  called as `modelkeep.open`
    place: str | os.PathLike[str] | None = None,
    *,
    create: bool = True,
    staging: str | os.PathLike[str] | None = None,
) -> "Keep":
    """Open the keep at a path or URL, and create it where there is none.

    Args:
        place: a folder, ``file:///...``, ``memory://NAME`` or a prefix in an object store, ``s3://BUCKET/PREFIX``,
            ``gs://...`` or ``az://...``; None for ``$MODELKEEP_KEEP``, else ``./keep``.
        create: False to raise `NotFound` where there is no keep.
        staging: a folder on a disk of this machine, for an object store: what runs save is durable there at once, and
            goes up behind; `Keep.flush` and the end of a run wait for that. What a process leaves in it when it is
            killed goes up when the folder is opened again. One process has it at a time.

    Raises:
        UnknownFormat: the place is a folder of other things, or a keep of a newer version.
        NotFound: there is none, and ``create`` is False.
        Damaged: its ``keep.json`` is not what was written, or is gone.
        StorageError: the path is a file, or cannot be read or written; there is no such bucket, the store refuses the
            credentials, or replaces objects that it should only create.
        UsageError: ``place`` is no path, or an empty one; ``staging`` is that of another keep.
        RunLocked: another process has the staging folder.

    >>> open("memory://docs-open")
    Keep('memory://docs-open', 0 runs)
    """
    where = default_place() if place is None else _checked_place(place)
    backend = open_backend(where, create=create)
    if staging is not None:
        if backend.exclusive_locks:
            raise UsageError(f"staging= is for object stores, and {backend.url} is on this machine; leave it out")
        backend = staged(backend, _checked_place(staging), may_wait)
    return Keep(Store.open(backend, create=create))


def _checked_place(place: object) -> str:
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise UsageError(
            f"a keep is named by the path of a folder or a URL, such as './keep', not by {place!r:.80}; leave it out "
            "for $MODELKEEP_KEEP, else ./keep"
        )
    return text


class Keep:
    """A place where states and runs are kept. Made by `open`; cheap, and without anything to close.

    >>> keep = open("memory://docs-keep")
    >>> import numpy as np
    >>> snapshot = keep.save_state({"weights": np.ones(3, "float32")})
    >>> keep.load_state(snapshot.id)
    {'weights': array([1., 1., 1.], dtype=float32)}
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """Where it is."""
        return self._store.backend.url

    @property
    def id(self) -> str:
        """What tells it from all other keeps; it stays when the keep is moved."""
        return self._store.id

    @property
    def store(self) -> Store:
        """What it is made of."""
        return self._store

    def flush(self) -> None:
        """Return when what was saved is in the store; at once but for a keep that was opened with ``staging``.

        Raises:
            StorageError: for a minute nothing went up; what waits stays in the staging folder.
            Fenced: another process has taken over a run while this one was cut off.
        """
        self._store.backend.flush()

    def save_state(self, tree: Tree, *, meta: Mapping[str, Json] | None = None) -> Snapshot:
        """Keep a state: dicts, lists and tuples of numpy arrays and JSON values. Durable when this returns.

        It stays until it is deleted; no collection takes it. Equal states with equal ``meta`` are one snapshot.

        Raises:
            UnsupportedState: a leaf that cannot be kept bit for bit; its path, type and the way out.
            StorageError: the storage refused; nothing of the state is visible.
        """
        return self._store.save(tree, meta=dict(meta or {}))

    def load_state(
        self,
        ref: str | Ref | Snapshot | Checkpoint | Version,
        *,
        select: str | Sequence[str] | None = None,
        into: Tree = None,
    ) -> Tree:
        """Load the state that ``ref`` names; every byte is checked.

        Args:
            ref: such as ``"run:cnn@last"``, ``"cnn@best:val_loss"``, ``"digits@champion"``, a snapshot's id, or a
                snapshot, checkpoint or version.
            select: path patterns (``"model/**"``); only what they match is read.
            into: a tree with arrays at the same paths, of the same dtypes and shapes, writable and C-contiguous: the
                bytes are read into them, which is faster than into fresh memory, and they are what is returned. Scalars
                and ``bytes`` are returned anew.

        Raises:
            NotFound: there is nothing of that name, or a pattern matches nothing; close ones are listed.
            InvalidRef: ``ref`` is no REF.
            Damaged: naming each damaged tensor; nothing is returned, and what ``into`` holds is of no use.
            StateMismatch: ``into`` does not fit; each path, what is kept and what is there. Nothing was changed.

        >>> import numpy as np
        >>> keep, live = open("memory://docs-into"), {"weights": np.zeros(3)}
        >>> keep.load_state(keep.save_state({"weights": np.ones(3)}), into=live)["weights"] is live["weights"]
        True
        """
        patterns = [select] if isinstance(select, str) else select
        return self._store.load(self.snapshot(ref), select=patterns, into=into)

    def snapshot(self, ref: str | Ref | Snapshot | Checkpoint | Version) -> Snapshot:
        """Return the record that ``ref`` names, without its tensors.

        >>> keep = open("memory://docs-keep-snapshot")
        >>> keep.snapshot(keep.save_state({"epoch": 3}).short).structure
        {'epoch': 3}
        """
        if isinstance(ref, Snapshot):
            return ref
        if isinstance(ref, Checkpoint | Version):
            return self._store.snapshot(ref.snapshot_id)
        return self._store.resolve(ref)

    def runs(self) -> "list[RunSummary]":
        """Return a summary of each run, by name; what is damaged is said in it."""
        from modelkeep.store.documents import read_ahead
        from modelkeep.training.summary import summarize

        # What a store remembers is for one thread, so each run is looked at by a store of its own.
        found = read_ahead(
            self._store.backend, self.names(), lambda name: summarize(Store(self._store.backend, self.id), name)
        )
        return [summary() for _, summary in found]

    def run(
        self,
        name: str,
        *,
        params: Mapping[str, object] | None = None,
        seed: int | None = None,
        new: bool = False,
        fork: str | None = None,
        exact: bool = True,
        capture: bool = True,
    ) -> "Run":
        """Start a run, or go on with it: the same call in both cases. Call it before data and model are built.

        It holds the run against other processes until it is closed or the process ends, whichever way; records
        parameters, environment and machine; and seeds the random generators of Python, numpy and the frameworks that
        are imported.

        Args:
            name: letters, digits, ``_``, ``-`` and ``.``.
            params: what the training depends on, as JSON. A run that goes on must be given the same ones, or none;
                ``epochs`` may change.
            seed: from 0 to 2**32 - 1; by default one is drawn when the run starts, and the same used ever after.
            new: start a fresh run beside an older one of this name, as NAME-2, NAME-3, …, each time it is called.
            fork: a REF such as ``"run:cnn@1200"``: start a fresh run whose first state is that checkpoint. The same
                call goes on with that fork. Seed, and parameters if none are given, are those of the checkpoint.
            exact: False goes on where the machine differs, so that the result is not bit for bit what it would have
                been; the run is marked.
            capture: False records of the environment only what decides the bits.

        Raises:
            ParamsChanged: with a table of what differs and the ways out.
            NotExact: the machine differs from the one that wrote the checkpoint; each difference by name.
            RunLocked: another process has the run open.
            Damaged: the run has checkpoints, and none is whole. Where only the newest are damaged a RuntimeWarning
                names them, and the run goes on from the newest that is whole.
            InvalidName, NotFound, UsageError: a name, REF, seed or parameter that cannot be.
        """
        from modelkeep.training.run import Run
        from modelkeep.training.start import Request as RunRequest

        return Run(self._store, RunRequest(name, params, seed, new, fork, exact, capture))

    def adopt(
        self,
        path: str | os.PathLike[str],
        *,
        run: str,
        step: int | None = None,
        epoch: int | None = None,
    ) -> "Adopted":
        """Take over a training that another tool has checkpointed: the next start of ``run`` goes on from it.

        Understood are what Keras' ``ModelCheckpoint`` (``.keras``, ``.weights.h5``) and ``BackupAndRestore`` write,
        ``tf.train.CheckpointManager``, Orbax, and a dict such as ``{"model": …, "optimizer": …, "epoch": …}`` of
        ``torch.save``; of a folder with several checkpoints the newest. Nothing in a file is run. Which array belongs
        where is decided when the program starts: `modelkeep.keras.fit` puts them into its model and optimizer,
        ``run.checkpoints`` into the state that ``restore`` is given, by the names of both, and refuses what does not
        fit. From then on the run has checkpoints of its own, and resumes from them bit for bit. That it is not bit for
        bit what the older training would have become is recorded, with what the file lacks.

        Args:
            path: the file or folder.
            run: the name of the run; a new one, or one that was only adopted before.
            step: steps done, where the file does not tell: optimizers count them, and names such as ``step``.
            epoch: epochs done, where the file does not tell. `modelkeep.keras.fit` finds them by the length of the
                data.

        Returns: what was found, and what was not. The checkpoint is durable.

        Raises:
            UsageError: nobody tells the steps.
            Conflict: the run has been trained already.
            UnknownFormat: it is no checkpoint of these.
            NotFound, Damaged, Unsafe, LimitExceeded: the file is not there, not whole, would run code, or is too large.

        >>> import modelkeep, tempfile, torch
        >>> old = torch.nn.Linear(3, 1)
        >>> path = tempfile.mkdtemp() + "/old.pt"
        >>> torch.save({"model": old.state_dict(), "step": 1200}, path)
        >>> keep = modelkeep.open("memory://docs-adopt")
        >>> keep.adopt(path, run="line").checkpoint.step
        1200
        >>> model = torch.nn.Linear(3, 1)
        >>> with keep.run("line") as run, run.checkpoints() as ckpt:
        ...     _, start = ckpt.restore({"model": model})
        >>> start, bool((model.weight == old.weight).all())
        (1200, True)
        """
        from modelkeep.training.adoption.adopting import adopt
        from modelkeep.training.adoption.reading import read_training

        return adopt(self._store, read_training(path, step=step, epoch=epoch), run)

    def publish(
        self,
        name: str,
        model: Any,
        *,
        example: Any = None,
        metrics: Mapping[str, float] | None = None,
        card: str | Card | None = None,
        parents: Sequence[str | Version] = (),
        optimizer: bool = False,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    ) -> Version:
        """Publish a model as the next version of ``name``; durable when this returns, and never changed again.

        A version holds architecture, weights, signature, examples with their answers, the environment, where it comes
        from, and a card. Bytes that the newest version, or the checkpoint that is promoted, has already are not written
        again. Any number of processes may publish at once; a number is never used twice.

        Args:
            name: letters, digits, ``_``, ``-`` and ``.``.
            model: a Keras model on any backend, a torch or flax module, a jax pytree of parameters; a REF such as
                ``"run:cnn@best:val_loss"``, which is promoted without reading or writing its tensors; or a `Path`:
                the model in a foreign file, or the weights of one that has no architecture (`transfer` takes them).
            example: a few inputs, first axis the batch: ``x[:4]``, or a dict or list of arrays. The model is asked, and
                its answers are kept (``load_model(check=True)`` compares). For jax a `modelkeep.Example`.
            metrics: named numbers; those of a promoted checkpoint by default.
            card: Markdown in the Hugging Face form, or a `modelkeep.Card` with licence and data; else one is written.
            parents: versions that it grew from, such as ``["digits@1"]``; they cannot be removed before it.
            optimizer: keep the state of the optimizer too, so that training can go on from the version.
            labels: what the values along the last axis of the output stand for, such as ``["cat", "dog"]``; where the
                model gives several, by the name of the output. They go along into exports and predictions.

        Raises:
            UnsupportedState: a part that has no configuration, or one that holds code (a lambda).
            UsageError: it is no model, is not built, does not compute the example, or tells no signature and no
                example was given; or ``labels`` do not fit what it gives.
            InvalidName, NotFound, Conflict, StorageError: nothing was published.

        >>> import keras
        >>> keep, model = open("memory://docs-publish"), keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> keep.publish("digits", model, metrics={"accuracy": 0.98}).number
        1
        """
        given = card if isinstance(card, Card) else Card(text=card)
        request = Request(name, example, metrics, given, tuple(parents), optimizer, labels)
        from modelkeep.training import environment

        return publish(self._store, model, request, environment.capture())

    def load_model(
        self,
        ref: str | Ref | Version | Snapshot,
        *,
        custom_objects: Mapping[str, Any] | None = None,
        compiled: bool = False,
        into: Any = None,
        check: bool = False,
        budget: Budget | None = None,
    ) -> Any:
        """Load a model; nothing that a file says is run, imported or opened, and every byte is checked.

        Args:
            ref: such as ``"digits@3"``, ``"model:digits@champion"``, or a checkpoint ``"run:cnn@last"``.
            custom_objects: classes and functions that the model may use beyond Keras' own: {name: class}.
            compiled: compile it as it was, with the state of the optimizer where that was kept.
            into: a model that is there already, into which the weights are put: a Keras model, a torch or flax module;
                for jax a pytree of the same structure. Needed for torch, flax and jax, whose classes are never
                imported by name.
            check: ask the examples again, and compare the answers with those that were kept.
            budget: the most that the model may take; compared before anything of that size is built.

        Returns: a ``keras.Model``, or ``into``; for jax a new pytree.

        Raises:
            NotFound: there is nothing of that name; or a class that the model uses was not passed.
            Unsafe: its architecture would run code, or open what it names.
            LimitExceeded: it is larger than ``budget``.
            Damaged: bytes are not those that were written, each tensor by name; or no model can be made of it.
            StateMismatch: ``into`` does not fit.
            NotExact: ``check`` found other answers.
        """
        return load_version(self._store, self.snapshot(ref), Wish(custom_objects, compiled, into, check, budget))

    def export(
        self,
        ref: str | Ref | Version | Snapshot,
        to: str,
        out: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        custom_objects: Mapping[str, Any] | None = None,
        model: Any = None,
        again: bool = False,
        tolerance: float | None = None,
        **options: Any,
    ) -> Path:
        """Write a model in a format of others, and prove it. It stands under its name when it is whole, proven and
        durable; else nothing does.

        What a framework reads (``"keras"``, ``"weights-h5"``, ``"safetensors"``, ``"huggingface"``, ``"torch"``,
        ``"npz"``) is read back and compared bit for bit. What a runtime runs (``"savedmodel"``, ``"litert"``,
        ``"onnx"``, ``"tfjs"``, ``"stablehlo"``, ``"pt2"``) is a graph: it is written by a process of its own with Keras
        on the format's framework, whichever backend trained the model, and opened in its own runtime, where it answers
        the examples of the version, all of them at once and the first alone. Where that fails, ``"savedmodel"`` is
        written from jax and ``"onnx"`` from torch, if the model was trained there. A torch module becomes ``"onnx"`` or
        ``"pt2"``, a function of jax ``"savedmodel"`` or ``"stablehlo"``. The graph of a version is kept with it, and
        found again the next time.

        Args:
            ref: a version or a checkpoint, as for `load_model`.
            to: the format.
            out: the path; by default the name of the model with the format's suffix, in the current folder.
            overwrite: take the place of what is there.
            custom_objects: classes beyond Keras' own.
            model: what computes it, for a graph of what is no Keras model: the torch or flax module; of jax a pair, a
                function of (parameters, inputs) and parameters of the same structure. The weights are the version's.
            again: make a graph anew, though the version has it.
            tolerance: what a graph's answers may differ by, as a share of the largest value of an output; by default
                1e-4, 0.02 where the model computes in half precision, and more where ``quantize`` says so.
            options: of a graph: ``quantize`` (litert: ``"dynamic"``, ``"int8"``, ``"float16"``; tfjs: ``"float16"``,
                ``"uint8"``), ``batch`` (litert: the only size of the first axis), ``flex`` (litert: allow operations
                that only the Flex delegate has; a file with one cannot be proven here, and is shown as such),
                ``opset`` (onnx: from 15 to 18), ``signatures`` (savedmodel: names of layers, each of whose outputs
                becomes a further signature).

        Returns: the path.

        Raises:
            NotFound: there is no such model or folder; or a class that it uses was not passed.
            UsageError: no such format, or not one for this model, such as ``"keras"`` for a torch module; an operation
                that the format has not; no examples to prove a graph on; or its runtime is not installed.
            UnsupportedState: a dtype that the format has not.
            AlreadyExists: something is there, and ``overwrite`` is False.
            NotExact: the format's own library reads something else; or a graph answers otherwise than the model, with
                the first layer whose output differs.
            StorageError: it could not be written, as on a full disk.

        >>> import keras, tempfile
        >>> keep, model = open("memory://docs-export"), keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> version = keep.publish("digits", model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep.export(version, "safetensors", f"{folder}/digits.safetensors").name
        'digits.safetensors'
        """
        from modelkeep.exporters import graphs
        from modelkeep.exporters.export import export, write_weights
        from modelkeep.exporters.formats import check_format
        from modelkeep.exporters.options import Options
        from modelkeep.exporters.source import Source

        found = check_format(to)
        parsed = Ref.parse(ref) if isinstance(ref, str) else ref
        snapshot, version = snapshot_and_version(self._store, parsed)
        named = version.ref if version is not None else str(parsed) if isinstance(parsed, Ref) else snapshot.id
        name = version.model if version is not None else parsed.name if isinstance(parsed, Ref) else snapshot.short
        path = Path(out) if out is not None else Path(f"{name}{found.suffix}")
        source = Source(self._store, snapshot, named, custom_objects or {})
        checked = Options.checked(to, name=name, **options)
        if not found.is_graph:
            return export(path, found.suffix, lambda place: write_weights(source, to, place), overwrite=overwrite)
        request = graphs.Request(source, version, to, checked, model, tolerance, again)
        return export(path, found.suffix, lambda place: graphs.make(request, place), overwrite=overwrite)

    def exports(self, ref: str | Ref | Version) -> list[tuple[Export, dict[str, Any]]]:
        """The graphs that a version was exported to, newest first, each with its proof as JSON.

        A proof has ``tolerance``, ``bytes`` and ``runtimes``: for each its version, the milliseconds of loading, and
        for each size of batch ``max_abs``, ``max_rel`` (of the largest value of an output), ``top`` (how often the
        top answer is the same) and the milliseconds of a call.

        Raises:
            NotFound: there is no such version.
            Damaged: a record cannot be read.
        """
        from modelkeep.runtime.artifact import proof_of

        version = self._version(ref)
        exports = self._store.model(version.model).exports(version.number).all()
        return [(one, proof_of(self._store, one)) for one in exports]

    def verify_exports(self, ref: str | Ref | Version) -> list[tuple[Export, dict[str, Any]]]:
        """Prove the exports of a version again, with the runtimes that are installed today; nothing is changed.

        Raises:
            NotExact: one answers otherwise than the model.
            Damaged: its bytes are not those that were written; or its runtime cannot open it any more.
            UsageError: its runtime is not installed.
        """
        from modelkeep.exporters import graphs
        from modelkeep.exporters.source import Source

        version = self._version(ref)
        source = Source(self._store, self.snapshot(version), version.ref)
        exports = self._store.model(version.model).exports(version.number).all()
        return [(one, graphs.verify(self._store, source, one)) for one in exports]

    def predictor(
        self,
        ref: str | Ref | Version,
        *,
        runtime: str | None = None,
        threads: int | None = None,
        warm_up: bool = False,
    ) -> "Predictor":
        """A version that answers without its training framework.

        The lightest runtime is taken that is installed here and was proven on an export of the version: LiteRT,
        onnxruntime, OpenVINO, TensorFlow's C library; else Keras itself. Every byte is checked when it is read.

        Args:
            ref: a version, such as ``"digits@champion"``.
            runtime: ``"litert"``, ``"onnxruntime"``, ``"openvino"``, ``"tensorflow-c"`` or ``"keras"``: just this one.
            threads: how many it may use; by default its own choice.
            warm_up: compute once before this returns, so that the first call is as fast as the others.

        Returns: what is called with inputs, as `modelkeep.runtime.predictor.Predictor` says.

        Raises:
            NotFound: there is no such version; or it has no export that ``runtime`` was proven on.
            UsageError: there is no such runtime, or none that is installed can answer; with what to do.
            Damaged: bytes are not those that were written.

        >>> import keras, numpy as np
        >>> keep, model = open("memory://docs-predictor"), keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> predict = keep.predictor(keep.publish("digits", model, example=np.ones((2, 3), "float32")))
        >>> predict([[1, 2, 3], [4, 5, 6]]).shape
        (2, 2)
        """
        from modelkeep.runtime.predictor import open_predictor

        found = open_predictor(self._store, self._version(ref), runtime=runtime, threads=threads)
        if warm_up:
            found.warm_up()
        return found

    def _version(self, ref: str | Ref | Version) -> Version:
        if isinstance(ref, Version):
            return ref
        return find_version(self._store, Ref.parse(ref) if isinstance(ref, str) else ref)

    def models(self) -> list[str]:
        """The names of the models that have a version, ascending."""
        return self._store.models()

    def model(self, name: str) -> ModelRecord:
        """A named model: its versions, its aliases and their history; see `modelkeep.store.ModelRecord`.

        Raises:
            NotFound: there is none of that name.
        """
        record = self._store.model(name)
        if not record.exists():
            raise NotFound(f"there is no model {name} in {self.url}; there is {', '.join(self.models()[:8]) or 'none'}")
        return record

    def alias(
        self, name: str, alias: str, version: int | None, *, expect: int | None = None, reason: str = ""
    ) -> Move | None:
        """Let an alias of a model point at a version, an earlier one too; with None at nothing. Durable on return.

        ``expect`` is where it must be now (a number, or 0 for nowhere): of two who expect the same one succeeds.

        Raises:
            Conflict: the alias is not where it was expected.
            NotFound, InvalidName: there is no such version; or the alias would be taken for one.

        >>> import keras
        >>> keep, model = open("memory://docs-alias"), keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> keep.alias("digits", "champion", keep.publish("digits", model).number, reason="the first").version
        1
        """
        return self.model(name).alias(alias, version, expect=expect, reason=reason)

    def verify(self, on_progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Read everything and name each damage; nothing is changed.

        ``on_progress`` is called with the bytes that were read and the bytes that there are.
        """
        return self._store.verify(on_progress)

    def gc(self, *, dry_run: bool = True, grace: float = GRACE_SECONDS) -> GcReport:
        """Remove what nothing names, if it is older than a day and than ``grace`` seconds; by default only say it.

        Where this process has runs open, call it from the thread that trains: it waits for what they are saving.

        Raises:
            RunLocked: a run is being written; collect when it has ended. A dry run does not mind.
            Damaged: a record cannot be read: it could name anything, so nothing is removed.
        """
        if not dry_run:
            from modelkeep.training.run import wait_for_saves

            wait_for_saves(self._store)
        return self._store.gc(dry_run=dry_run, grace=grace)

    def names(self) -> list[str]:
        """The runs that were started: a lock alone, of a start that was refused, is none."""
        return [run.name for run in valid_runs(self._store) if run.exists()]

    def __repr__(self) -> str:
        try:
            count = len(self.names())
        except ModelkeepError:
            return f"Keep({self.url!r}, its runs cannot be listed)"
        return f"Keep({self.url!r}, {count} run{'' if count == 1 else 's'})"

    def _repr_html_(self) -> str:
        """The runs as a table for notebooks; all text is escaped."""
        from modelkeep.training import summary

        try:
            runs = self.runs()
        except ModelkeepError as error:
            return f"<p>keep {html.escape(self.url)}: {html.escape(str(error))}</p>"
        return summary.html_table(self.url, runs)
