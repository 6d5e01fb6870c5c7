"""What a run writes of the machine and the code that it runs on."""

import json
import platform
import subprocess

import torch

from superbatch import training
from superbatch.environment import environment, git_commit
from superbatch.recipes import recipe


TINY = "mu-2400/4"
PROCESSOR = platform.processor() or platform.machine()


def two_gpus(monkeypatch):
    """A host with two GPUs, as far as anybody asks for their names."""
    names = {0: "the first GPU", 1: "the second GPU"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device=None: names[getattr(device, "index", 0)]
    )


def test_a_host_without_git_is_no_reason_to_stop(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None
    assert environment(["superbatch"], torch.device("cpu"))["git_commit"] is None


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    said = subprocess.CompletedProcess([], 0, stdout="85eaf23\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **settings: said)
    assert git_commit() == "85eaf23"
    said.returncode, said.stdout = 128, "HEAD\n"  # a repository without a commit
    assert git_commit() is None


def test_packages_are_of_the_versions_that_they_say():
    import timm
    import torchvision

    found = environment([], torch.device("cpu"))
    assert found["timm"] == timm.__version__
    assert found["torchvision"] == torchvision.__version__.split("+")[0]


def test_the_device_is_the_one_that_the_run_computes_on(monkeypatch):
    two_gpus(monkeypatch)
    assert environment([], torch.device("cpu"))["device"] == PROCESSOR
    assert environment([], torch.device("cuda:1"))["device"] == "the second GPU"


def test_a_run_on_the_processor_names_no_gpu(tmp_path, monkeypatch):
    config = recipe("uniform").changed(
        steps=1, device="cpu", out=str(tmp_path / "run"), models={"learner": TINY}
    )
    started = training.Run.finish

    def finish(run):
        monkeypatch.undo()  # only the folder is made where there seem to be GPUs
        return started(run)

    monkeypatch.setattr(training.Run, "finish", finish)
    two_gpus(monkeypatch)
    training.start(config)
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert found["device"] == PROCESSOR
