"""``modelkeep adopt``: a training that another tool has checkpointed goes on as a run."""

from typing import Annotated

import typer

from modelkeep.cli.exits import exit_codes
from modelkeep.cli.options import JsonOption, KeepOption, QuietOption
from modelkeep.cli.output import print_json

HELP = """Take over a training from the checkpoint of another tool, so that the next start goes on from it as run NAME.

PATH is a file of ModelCheckpoint, a folder of BackupAndRestore, tf.train.CheckpointManager or Orbax (the newest
checkpoint in it), or a dict that torch.save wrote. Nothing in it is run. What it does not have is named."""
EPILOG = exit_codes(3, 4, 5, 6, 7, 9, 10)


def command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file or folder.")],
    *,
    run: Annotated[str, typer.Option("--run", metavar="NAME", help="The name of the run, such as cnn.")],
    step: Annotated[int | None, typer.Option("--step", help="Steps done, where PATH does not tell.")] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", help="Epochs done, where PATH does not tell.")] = None,
    keep: KeepOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adopt a checkpoint."""
    from modelkeep.keep import open as open_place
    from modelkeep.training.adoption.adopting import adopt
    from modelkeep.training.adoption.reading import read_training
    from modelkeep.values import check_name

    name = run.removeprefix("run:")
    check_name(name)
    found = read_training(path, step=step, epoch=epoch)  # what is not there, or not understood, makes no keep
    opened = open_place(keep)
    adopted = adopt(opened.store, found, name)
    ref = f"run:{adopted.run}@{adopted.checkpoint.step}"
    if as_json:
        print_json(
            {
                "keep": opened.url,
                "run": adopted.run,
                "ref": ref,
                "snapshot": adopted.checkpoint.snapshot_id,
                "kind": adopted.kind,
                "path": adopted.path,
                "step": adopted.checkpoint.step,
                "epoch": adopted.epoch,
                "unknown": list(adopted.unknown),
            }
        )
        return
    if quiet:
        print(ref)
        return
    epochs = "its epoch follows from the length of the data" if adopted.epoch is None else f"epoch {adopted.epoch}"
    print(f"{ref} is {adopted.path} ({adopted.kind}): step {adopted.checkpoint.step}, {epochs}")
    print("not in it, and begun anew:")
    for one in adopted.unknown:
        print(f"  - {one}")
    print(f'the next start of run "{adopted.run}" (mk.keras.fit, or run.checkpoints) goes on from it')
