"""A command that must be refused, and a run that was trained."""

import pytest
from refusals import TINY, contents

from superbatch.cli import main


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must be refused; its one message. Whatever was there is as it was."""

    def message(*words):
        before = contents(tmp_path)
        code = main(list(words))
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("superbatch: ")
        assert err.count("\n") == 1, err
        assert contents(tmp_path) == before
        return err

    return message


@pytest.fixture
def trained(tmp_path, capsys):
    """Trains a run of ``uniform`` and forgets what it printed."""

    def run(out, *flags):
        assert main(["train", "uniform", *TINY, *flags, "--out", out]) == 0
        capsys.readouterr()
        return out

    return run
