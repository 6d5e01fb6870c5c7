"""Joining a Ray cluster: whether anybody answers, whether there is room, where paths begin."""

import logging
import socket
from pathlib import Path

import pytest


pytest.importorskip("ray")
from superbatch.actors import membership
from superbatch.actors.membership import Demands, Room, from_here, join
from superbatch.errors import RunError


HOST = {"CPU": 4.0, "GPU": 2.0, "scorer": 1.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("demands", "host", "room"),
    [
        (Demands(), HOST, 4),
        (Demands(cpus=0.1), {"CPU": 2.0}, 20),  # and not 19, as 2.0 // 0.1 is
        (Demands(cpus=8.0), HOST, 0),
        (Demands(gpus=1.0), HOST, 2),
        (Demands(cpus=0.5, gpus=0.25), HOST, 8),
        (Demands(cpus=0.0, gpus=0.4), HOST, 4),  # two on each GPU: a fifth of each stays free
        (Demands(gpus=2.0), HOST, 1),
        (Demands(gpus=1.0), {"CPU": 4.0}, 0),
        (Demands(resource="scorer"), HOST, 4),
        (Demands(resource="other"), HOST, 0),
    ],
)
def test_how_many_actors_a_host_can_have(demands, host, room):
    assert demands.room(host) == room


def test_what_is_demanded_is_what_ray_is_told():
    assert Demands(0.5, 0.25, "scorer").options() == {
        "num_cpus": 0.5,
        "num_gpus": 0.25,
        "resources": {"scorer": 0.001},
        "max_restarts": 0,
    }


@pytest.fixture
def alone(monkeypatch):
    """As in a process that is in no cluster; Ray itself is not to be asked."""
    monkeypatch.setattr(membership.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(membership.ray, "init", lambda **settings: pytest.fail("minutes go by"))
    return monkeypatch


@pytest.fixture
def nobody():
    """An address of this host where nobody listens, nor can while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_where_nobody_answers_ray_is_not_left_to_find_out(alone, nobody):
    with pytest.raises(RunError, match=rf"no Ray cluster at {nobody} .*refused.* ray start"):
        join(nobody, Demands())


def test_a_cluster_that_was_here_once_is_not_waited_for(alone, nobody, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(nobody)
    alone.setenv("RAY_TMPDIR", str(tmp_path))
    alone.setattr("ray._private.services.find_gcs_addresses", set)  # others' on this machine
    with pytest.raises(RunError, match=r"no Ray cluster at auto .*refused"):
        join("auto", Demands())
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    with pytest.raises(RunError, match=r"no Ray cluster at auto .*any running Ray instance"):
        join("auto", Demands())


@pytest.mark.parametrize("address", ["nonsense", "nobody.invalid:6379", "127.0.0.1:no"])
def test_what_is_no_address_is_said(alone, address):
    with pytest.raises(RunError, match=f"there is no Ray cluster at {address}"):
        join(address, Demands())


def test_a_cluster_that_wants_a_token_says_what_to_do(alone):
    def refuse(**settings):
        raise ConnectionError("it failed") from RuntimeError("RPC error: InvalidAuthToken: none")

    alone.setattr(membership.ray, "init", refuse)
    with socket.create_server(("", 0)) as server:  # on every address that this host has
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match=r"its token; export RAY_AUTH_MODE=token"):
            join(address, Demands())


def test_a_host_alone_that_can_never_have_an_actor_is_not_waited_for(alone):
    ended = []
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    alone.setattr(membership.ray, "init", lambda **settings: None)
    alone.setattr(membership.ray, "nodes", lambda: nodes)
    alone.setattr(membership.ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(RunError, match=r"no actor that needs so much \(--ray.cpus 1, --ray.gpus 1"):
        join(None, Demands(gpus=1.0))
    assert ended
    assert join(None, Demands())


def test_what_a_cluster_lacks_is_said_once_until_it_changes(monkeypatch, caplog):
    hosts = [
        {"Alive": True, "Resources": {"CPU": 8.0}},  # the learner's
        {"Alive": True, "Resources": {"CPU": 2.0, "scorer": 1.0}},
        {"Alive": True, "Resources": {"CPU": 1.0, "scorer": 1.0}},
    ]
    monkeypatch.setattr(membership.ray, "nodes", lambda: hosts)
    caplog.set_level(logging.WARNING)
    seconds = [0.0]
    room = Room(Demands(resource="scorer"), lambda: seconds[0])

    def look():
        room.look(3)
        seconds[0] += membership.LOOK_AGAIN

    look()
    assert not caplog.messages
    hosts[2]["Alive"] = False
    look()
    look()
    hosts[1]["Alive"] = False
    look()
    hosts[1]["Alive"] = hosts[2]["Alive"] = True
    look()
    hosts[1]["Alive"] = False
    look()
    hosts[2]["Alive"] = False
    room.look(3)
    room.look(3)
    said = [message.partition("(")[0] for message in caplog.messages]
    assert said == [
        f"the Ray cluster has room for {number} of 3 actors " for number in (2, 0, 1, 0)
    ]
    assert """ray start --address HOST:PORT --resources '{"scorer": 1}'""" in caplog.messages[0]


def test_paths_begin_in_the_folder_of_whoever_asks(monkeypatch, tmp_path):
    there = tmp_path / "learner"
    there.mkdir()
    (there / "data").write_text("here")
    monkeypatch.chdir(there)
    setup = from_here(Path("data").read_text)
    monkeypatch.chdir("/")
    assert setup() == "here"


def test_a_host_without_that_folder_starts_where_it_is(monkeypatch, tmp_path):
    there = tmp_path / "gone"
    there.mkdir()
    monkeypatch.chdir(there)
    setup = from_here(lambda: 1)
    monkeypatch.chdir(tmp_path)
    there.rmdir()
    assert setup() == 1
