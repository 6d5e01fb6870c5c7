"""Hosts of a Ray cluster killed for real while their actors score: the run comes to its end."""

import subprocess
import sys
import threading
import time

import pytest
from test_killed_actors import complete, config, spent

from superbatch import training


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(condition):
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.timeout(600)  # hosts start slowly on a machine that is busy
def test_hosts_that_are_killed_change_no_count(apart, tmp_path, caplog):
    written = tmp_path / "run" / "metrics.jsonl"
    through = training.start(config(tmp_path / "through", actors={"kind": "inline"}))
    first, second = (apart.add_node(num_cpus=1, resources={"scorer": 1}) for _ in range(2))
    others = []
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "2"]
    join += ["--address", apart.address, "--resources", '{"scorer": 1}']

    def kill():
        wait_for(lambda: lines(written) > 10)
        apart.remove_node(first, allow_graceful=False)
        before = lines(written)
        # Both actors held numbers, of which the learner needs those of the dead one soon: so many
        # lines are there only once the one that is left has scored them.
        wait_for(lambda: lines(written) > before + 10)
        apart.remove_node(second, allow_graceful=False)
        wait_for(lambda: "room for 0 of 2" in caplog.text)
        others.append(subprocess.Popen(join, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    killer = threading.Thread(target=kill)
    killer.start()
    on_hosts = {"resource": "scorer", "address": apart.address}
    try:
        summary = training.start(config(tmp_path / "run", actors={"kind": "ray"}, ray=on_hosts))
    finally:
        killer.join()
        for host in others:
            host.terminate()
            host.wait(60)
    assert summary["actors"]["actors/lost"] >= 2
    assert spent(summary) == spent(through)
    complete(tmp_path / "run")
    assert not pytest.importorskip("ray").is_initialized()  # it has left
