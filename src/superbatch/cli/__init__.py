"""The command line: ``superbatch COMMAND``. One module a command, loaded when it is used."""

import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from superbatch import launch
from superbatch.errors import Failed, Stopped, SuperbatchError


COMMANDS: Mapping[str, str] = {
    "train": "train with a recipe, from a configuration, or continue a run",
    "compare": "train several recipes on the same data and seeds; one table",
    "evaluate": "how good a checkpoint is on any data of its kind",
    "score": "score a data set once: a table of losses for many runs",
    "table": "look at tables of losses, verify them, put them together",
    "subset": "the best examples of a table, as a list of ids",
    "order": "distil what a run chose to an order that needs no scoring",
    "export": "write a trained model of pairs as open_clip reads it",
    "cost": "does selection pay? before spending anything",
    "report": "one page on finished or running runs",
    "explain": "one super-batch: why each example was kept or dropped",
}

DONE, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv``; 0 done, 1 failed or stopped, 2 bad usage or bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    show_what_can_be_shown()
    with launch.one_voice():
        return launch.leave(ended(words))


def show_what_can_be_shown() -> None:
    """Let characters that standard output has no code for be a question mark, not an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def ended(words: Sequence[str]) -> int:
    """Run the command in ``words`` and see that all it printed has gone out."""
    try:
        code = dispatched(words)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as ``head`` does
        code = FAILED
    except OSError as error:
        code = system_refuses(error)
    else:
        return code
    try:
        sys.stdout.flush()
    except OSError:
        # Nothing more is written, not even what Python still holds when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def dispatched(words: Sequence[str]) -> int:
    """Run the command that ``words`` begin with."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return DONE if words else BAD_USAGE
    if words[0] == "--version":
        from superbatch import __version__

        print(f"superbatch {__version__}")
        return DONE
    name, *rest = words
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        return complain(f"there is no command {name!r}; {hint}", BAD_USAGE)
    return guarded(name, rest)


def guarded(name: str, rest: Sequence[str]) -> int:
    """Run one command; what a user can mend is one message, without a traceback."""
    try:
        if name != "train":
            launch.refuse_several(name)
        code: int = importlib.import_module(f"superbatch.cli.{name}").run(rest)
    except launch.Silent:
        return FAILED
    except SuperbatchError as error:
        return complain(str(error), FAILED if isinstance(error, Stopped | Failed) else BAD_USAGE)
    except KeyboardInterrupt:
        return complain("interrupted", FAILED)
    except SystemExit as leaving:  # how tyro ends on --help and on a flag that does not exist
        return leaving.code if isinstance(leaving.code, int) else BAD_USAGE
    return code


def system_refuses(error: OSError) -> int:
    """Say what the system refuses; an error that does not say so itself is raised again."""
    from superbatch.files import out_of_space, refusal

    reason = refusal(error)
    if reason is None:
        raise error
    if out_of_space(error):
        return complain(f"no space left on the device: {error}", FAILED)
    # Without a name the error's own words have it, as pyarrow's do.
    what = f"{error.filename}: {reason}" if error.filename else f"a file: {error.strerror}"
    return complain(f"cannot read or write {what}", BAD_USAGE)


def overview() -> str:
    """What ``superbatch --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = (f"  superbatch {name:<{width}}  {does}" for name, does in COMMANDS.items())
    said = "Train large vision models on data that small models choose."
    return "\n".join([said, "", *lines, "", "superbatch COMMAND --help says more."])


def complain(message: str, code: int) -> int:
    """Say what was wrong, on the error stream."""
    if launch.speaks():
        print(f"superbatch: {message}", file=sys.stderr)
    return code
