"""Hosts of a Ray cluster killed for real while their actors score: the run comes to its end."""

import subprocess
import sys
import threading
import time

import pytest
from test_killed_actors import complete, config, spent

from superbatch import training
from superbatch.surroundings import Surroundings


def wait_for(condition):
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.timeout(600)  # hosts start slowly on a machine that is busy
def test_hosts_that_are_killed_change_no_count(apart, tmp_path, caplog):
    ray = pytest.importorskip("ray")
    through = training.start(config(tmp_path / "through", actors={"kind": "inline"}))
    first, second = (apart.add_node(num_cpus=1, resources={"scorer": 1}) for _ in range(2))
    killed_at, joined = {20: first, 60: second}, []
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "2"]
    join += ["--address", apart.address, "--resources", '{"scorer": 1}']

    def scorers():
        return sum("scorer" in node["Resources"] for node in ray.nodes() if node["Alive"])

    def kill(status):
        """The learner waits here until a dead host is known to be dead: it may be fast enough to
        end before that.
        """
        if status.title == "classact" and status.step in killed_at:
            left = scorers() - 1
            apart.remove_node(killed_at[status.step], allow_graceful=False)
            wait_for(lambda: scorers() == left)

    def replace():
        wait_for(lambda: "room for 0 of 2" in caplog.text)
        joined.append(subprocess.Popen(join, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    replacer = threading.Thread(target=replace)
    replacer.start()
    on_hosts = {"resource": "scorer", "address": apart.address}
    try:
        summary = training.start(
            config(tmp_path / "run", actors={"kind": "ray"}, ray=on_hosts), Surroundings(watch=kill)
        )
    finally:
        replacer.join()
        for host in joined:
            host.terminate()
            host.wait(60)
    assert summary["actors"]["actors/lost"] >= 2
    assert spent(summary) == spent(through)
    complete(tmp_path / "run")
    assert not ray.is_initialized()  # it has left
