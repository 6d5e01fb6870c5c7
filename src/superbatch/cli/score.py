"""``superbatch score``: one loss an example, scored once and kept as a table."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import tyro
from pydantic import BaseModel, Field

from superbatch.cli.output import say
from superbatch.cli.settings import JsonSwitch, Switch, leading_words, parse
from superbatch.config import Contrastive, Data, RaySettings, Section
from superbatch.errors import ConfigError
from superbatch.places import refuse_without_ray


class Actors(Section):
    """What scores."""

    kind: Literal["inline", "process", "ray"] = "inline"
    """In this process, or in several that open the data and the model themselves, on this host or
    on a Ray cluster."""
    count: int = Field(2, ge=1)
    """How many processes."""


class Score(BaseModel):
    """superbatch score --model CKPT --data.path DATA --out TABLE [flags].

    All examples of DATA are scored as they are, without augmentation. The same command again goes
    on where it was interrupted.
    """

    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Weights or a finished run, or NAME=CKPT; again for each further column loss/NAME."""
    out: str = ""
    """The table to write, parquet."""
    append: str | None = None
    """A table of part of the data: only the others are scored, and both are in the new table."""
    measure: Literal["loss", "grad_norm", "grad_norm_full", "entropy"] = "loss"
    """What is kept of an example: its loss, the norm of its gradient by the last layer or by all
    parameters, or how undecided the model is. Only losses can stand for a reference."""
    embeddings: Switch = False
    """Keep the embeddings of pairs too, float16, in a second file beside the table."""
    bf16: Switch = False
    """bf16 towers by autocast; losses stay fp32."""
    batch_size: int = Field(256, ge=1)
    """Examples in one forward pass."""
    block_size: int = Field(16_384, ge=1)
    """Examples between two saves; an interruption costs at most so many."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; auto: a GPU where there is one."""
    data: Data = Data()
    contrastive: Contrastive = Contrastive()
    actors: Actors = Actors()
    ray: RaySettings = RaySettings()
    json_: JsonSwitch = False
    """Print what was done as JSON."""


def run(argv: Sequence[str]) -> int:
    """Score what is not scored yet, then write the table."""
    words, flags = leading_words(argv)
    arguments = parse(Score, Score(), flags, "score")
    if words:
        raise ConfigError(f"score takes flags only and was given {' '.join(words)}; see --model")
    if not arguments.model or not arguments.out:
        raise ConfigError("score needs a checkpoint and a table: --model CKPT --out TABLE")
    if Path(arguments.out).is_dir():
        raise ConfigError(
            f"--out {arguments.out} is a folder; name a file, such as "
            f"{Path(arguments.out) / 'losses.parquet'}"
        )
    if arguments.append and Path(arguments.append).resolve() == Path(arguments.out).resolve():
        raise ConfigError(f"--append and --out are both {arguments.out}; give another --out")
    if arguments.append and arguments.embeddings:
        raise ConfigError("--append adds losses only; leave --embeddings out, or score all again")
    if arguments.embeddings and arguments.measure != "loss":
        raise ConfigError(
            f"--embeddings are kept beside losses and --measure is {arguments.measure}; "
            "leave one out"
        )
    if arguments.contrastive.score_patch is not None:
        raise ConfigError(
            f"--contrastive.score-patch is {arguments.contrastive.score_patch} and a table holds "
            "losses at the model's own patch; leave it out"
        )
    if arguments.actors.kind == "ray":
        refuse_without_ray()
    from superbatch.cli.scoring import scored  # slow to import: only once the flags are good

    with redirect_stdout(sys.stderr):  # the output is the result, whatever else speaks
        done = scored(arguments, ["superbatch", "score", *argv])
    if arguments.json_:
        print(json.dumps(done, indent=2))
    else:
        left_out = f"{done['skipped']} broken images and {done['not_finite']} losses not finite"
        say(f"{done['rows']} rows in {done['table']}; left out: {left_out}")
    return 0
