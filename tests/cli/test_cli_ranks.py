"""``torchrun -m superbatch train``, as it is typed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from superbatch import launch
from superbatch.cli import main
from superbatch.config import Config
from superbatch.errors import RunError
from superbatch.run import RunFolder


SMALL = ("--models.learner", "mu-1000/4", "--record.selection", "none")


def start(folder, *words, ranks=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*command, "-m", "superbatch", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_ranks_train_write_and_speak_as_one(tmp_path, capsys):
    ended = start(tmp_path, "train", "hard", "--steps", "6", "--out", "run", "--json", *SMALL)
    out, error = ended.communicate(timeout=280)
    assert ended.returncode == 0, error
    summary = json.loads(out)  # one object, and nothing else
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["examples_learned"] == 6 * 64
    assert summary["examples_seen"] == 6 * 128
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["ranks"] == 2
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] > 0


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_with_one_sentence_and_the_run_goes_on_alone(
    tmp_path, capsys
):
    often = ("--record.log-every", "1", "--record.checkpoint-every", "1")
    words = ("train", "uniform", "--steps", "100000", "--out", "run", *often, *SMALL)
    ended = start(tmp_path, *words, "--record.evaluate-every", "100000")
    try:
        until = time.monotonic() + 200
        while not list((tmp_path / "run/checkpoints").glob("step-*.pt")):
            assert time.monotonic() < until
            time.sleep(0.2)
        os.kill(rank(ended.pid, 1), signal.SIGKILL)
        _, error = ended.communicate(timeout=60)
    finally:
        ended.terminate()  # torchrun ends its ranks
    assert ended.returncode == 1
    assert error.count("superbatch: ") == 1
    assert "superbatch: another rank has ended; torchrun says which" in error
    # Of 100,000 steps only the next few: a run on two ranks is a run.
    config = tmp_path / "run/config.json"
    written = json.loads(config.read_text())
    reached = int(max((tmp_path / "run/checkpoints").glob("step-*.pt")).stem[5:])
    config.write_text(json.dumps(written | {"steps": reached + 2}))
    assert main(["train", "--resume", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples_learned"] == (reached + 2) * 64


def rank(torchrun, wanted):
    """The process of a rank among those that ``torchrun`` has started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = path.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]
            environment = path.joinpath("environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(parent) == torchrun and f"RANK={wanted}".encode() in environment:
            return int(path.name)
    raise AssertionError(f"torchrun {torchrun} has no rank {wanted}")


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as torchrun starts its second rank, before ranks have met."""
    facts = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in facts.items():
        monkeypatch.setenv(name, value)


def test_of_what_all_ranks_find_rank_0_speaks(second_of_two, monkeypatch, capsys):
    assert main(["train", "classact", "--select.sub-batch-size", "1000"]) == 2
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "classact", "--select.sub-batch-size", "1000"]) == 2
    assert "--select.sub-batch-size (1000) is larger" in capsys.readouterr().err


def test_other_commands_are_for_one_process(second_of_two, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(["compare", "uniform", "classact"]) == 2
    said = capsys.readouterr().err
    assert "superbatch compare is for one process and torchrun has started 2" in said


BY_RAY = ("--ranks.launcher", "ray", "--ranks.count", "2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "hard", "--ranks.count", "2"], "--ranks.count 2 is of ranks that Ray Train"),
        (["train", "hard", "--ray.address", "auto"], "--actors.kind ray, or --ranks.launcher ray"),
        (["train", "hard", *BY_RAY, "--device", "cuda"], "give --ranks.gpus 1"),
        (["train", "hard", *BY_RAY, "--ranks.count", "3"], "super-batch-size is 128 over all"),
        (["compare", "hard", "uniform", *BY_RAY], "cannot use --ranks.launcher ray"),
    ],
)
def test_flags_of_ray_train_that_cannot_work_are_refused(words, said, capsys, monkeypatch):
    monkeypatch.setattr("superbatch.places.find_spec", lambda name: True)
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["ray", "pandas"])
def test_ray_train_that_is_not_installed_is_a_sentence(missing, capsys, monkeypatch):
    monkeypatch.setattr("superbatch.places.find_spec", lambda name: name != missing or None)
    assert main(["train", "hard", *BY_RAY]) == 2
    said = capsys.readouterr().err
    assert f"--ranks.launcher ray needs {missing}" in said.replace("Ray:", "ray:")
    assert "pip install 'superbatch[ray]'" in said


def test_two_launchers_are_one_too_many(second_of_two, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "hard", *BY_RAY]) == 2
    assert "torchrun has started 2; leave torchrun out" in capsys.readouterr().err


def test_a_run_that_goes_on_takes_only_where_its_ranks_are(tmp_path, capsys, monkeypatch):
    """A run that is finished only shows what it came to, whoever is asked to go on with it."""
    monkeypatch.setattr("superbatch.places.find_spec", lambda name: True)
    run = RunFolder(tmp_path / "run")
    run.create(Config(recipe="hard", steps=7).model_dump(mode="json"), {})
    words = ["train", "--resume", str(run.path), "--json"]
    assert main([*words, *BY_RAY, "--steps", "8"]) == 2
    assert "the only settings that it takes say where its ranks are" in capsys.readouterr().err
    run.finish({"steps": 7})
    for flags in ((), BY_RAY, (*BY_RAY, "--ranks.gpus", "1", "--ray.address", "auto")):
        assert main([*words, *flags]) == 0
        assert json.loads(capsys.readouterr().out) == {"steps": 7}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ranks": {"cpus": 2.5}}, "2 ranks (--ranks.count) take up 5 CPUs and the Ray cluster"),
        ({"ranks": {"gpus": 1}}, "take up 2 GPUs and the Ray cluster has 0"),
        ({"actors": {"kind": "ray", "count": 2}}, "with 2 actors each (--actors.count) take up 6"),
        ({"ranks": {"resource": "learners"}}, "has --ranks.resource learners; start one with"),
    ],
)
def test_what_a_cluster_can_never_hold_is_refused(settings, said):
    group = pytest.importorskip("superbatch.group")
    config = Config(ranks={"launcher": "ray", "count": 2})
    group.refuse_without_room(config, {"CPU": 4.0})
    with pytest.raises(RunError, match=re.escape(said)):
        group.refuse_without_room(config.changed(**settings), {"CPU": 4.0})


class Unanswered(Exception):
    """As Ray Train tells that a worker is gone."""

    def __init__(self, failure):
        super().__init__("A worker health check failed.\nWorker info: ...")
        self.health_check_failure = failure


@pytest.mark.parametrize(
    ("failures", "told", "said"),
    [
        ({0: ValueError("gloo"), 1: "died"}, "rank 1 is silent", "lost (rank 1: the actor died)."),
        ({0: ValueError("gloo")}, "another rank has ended", "another rank has ended"),
        ({0: ValueError("gloo")}, None, "ranks ended without a word. Once that is mended"),
    ],
)
def test_lost_ranks_are_a_sentence(failures, told, said):
    group = pytest.importorskip("superbatch.group")
    gone = Unanswered(group.RayError("the actor died\nand much advice"))
    met = {rank: gone if each == "died" else each for rank, each in failures.items()}
    error = group.lost(group.WorkerGroupError("...", met), group.Told(lost=told))
    assert said in str(error)
    assert "\n" not in str(error)


class Meeting:
    """Ranks that have met, as far as this one can see, and how many of them failed."""

    def __init__(self, monkeypatch):
        self.failed = 0
        monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
        monkeypatch.setattr("torch.distributed.TCPStore", lambda *_, **__: self)

    def add(self, name, count):
        self.failed += count
        return self.failed


def test_the_first_rank_that_fails_says_so_and_the_others_nothing(second_of_two, monkeypatch):
    Meeting(monkeypatch)
    with pytest.raises(KeyError), launch.joined(5.0):
        raise KeyError
    meeting = Meeting(monkeypatch)
    meeting.failed = 1
    with pytest.raises(launch.Silent), launch.joined(5.0):
        raise KeyError


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Connection closed by peer [127.0.0.1]:1", "another rank has ended; torchrun says"),
        ("Timed out waiting 5000ms for recv", "another rank was silent for 5 s"),
    ],
)
def test_what_gloo_says_of_others_is_a_sentence(said, meant, second_of_two, monkeypatch):
    Meeting(monkeypatch)
    with pytest.raises(RunError, match=meant), launch.joined(5.0):
        raise RuntimeError(f"[gloo/pair.cc:1] {said}")


class MetError(Exception):
    """Ranks would have met."""


def test_ranks_wait_for_each_other_as_long_as_they_are_told(second_of_two, monkeypatch):
    def meet(backend, *, timeout):
        raise MetError(backend, timeout.total_seconds())

    monkeypatch.setattr("torch.distributed.init_process_group", meet)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for flags, seconds in (((), 600.0), (("--ranks.timeout-seconds", "12.5"), 12.5)):
        with pytest.raises(MetError) as met:
            main(["train", "uniform", *flags])
        assert met.value.args == ("gloo", seconds)


def test_an_error_of_this_rank_is_not_about_others(second_of_two, monkeypatch):
    Meeting(monkeypatch)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), launch.joined(5.0):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
