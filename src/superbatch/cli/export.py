"""``superbatch export``: a trained model of pairs in the form that plain open_clip loads."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from superbatch.cli.output import say
from superbatch.cli.settings import leading_words, parse
from superbatch.config import Config
from superbatch.errors import CheckpointError, ConfigError


class Export(BaseModel):
    """superbatch export CKPT --out FOLDER.

    Plain open_clip loads it: open_clip.create_model("local-dir:FOLDER").
    """

    out: Path | None = None
    """The folder to write; it must not be there yet."""


def run(argv: Sequence[str]) -> int:
    """Write the checkpoint (weights, or a finished run) that ``argv`` names for open_clip."""
    words, flags = leading_words(argv)
    arguments = parse(Export, Export(), flags, "export CKPT")
    if len(words) != 1 or arguments.out is None:
        raise ConfigError(f"export needs one checkpoint and --out FOLDER; it was given {words}")
    if arguments.out.exists():
        raise ConfigError(f"--out {arguments.out} exists; give a folder that is not there yet")
    from superbatch.cli.evaluating import task_of_checkpoint, two_tower
    from superbatch.models.export import export_open_clip

    learned = task_of_checkpoint(words[0], Config())
    if learned.task != "image_text":
        raise CheckpointError(
            f"{words[0]} learned labels and open_clip has models of pairs; timm loads its weights "
            "as they are"
        )
    export_open_clip(two_tower(words[0], learned), arguments.out)
    say(f"wrote {arguments.out}")
    return 0
