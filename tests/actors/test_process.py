"""Processes of this host: what is heard of them, and how they end."""

import time

import pytest

from superbatch.actors import process
from superbatch.actors.news import Ready, Studied
from superbatch.actors.process import Processes


def setup():
    return answer


def answer(actor, number):
    return Studied(actor, number, 0.0, 1, False, 0.01)


@pytest.fixture
def two():
    """Actors 0 and 1, both ready."""
    transport = Processes(setup)
    for actor in (0, 1):
        transport.start(actor)
    assert sorted(transport.news(60.0).actor for _ in range(2)) == [0, 1]
    yield transport
    transport.close()


def told(transport, count):
    """Wait until so much news lies there, of whomever."""
    deadline = time.monotonic() + 60
    while transport._news.qsize() < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_news_of_who_was_let_go_hide_no_news_of_others(two):
    two.ask(0, 7)
    told(two, 1)
    two.end(0)
    two.ask(1, 8)
    told(two, 3)  # the answer of 0, that it is silent now, and the answer of 1
    assert two.news(0.0) == answer(1, 8)
    assert two.news(0.0) is None


def test_news_are_waited_for_as_long_whoever_was_let_go(two):
    two.end(0)
    began = time.monotonic()
    assert two.news(0.2) is None
    assert time.monotonic() - began >= 0.19


def test_a_process_that_does_not_die_in_time_is_left_to_itself(two, monkeypatch):
    child = two._places[0].process
    kill = child.kill
    monkeypatch.setattr(process, "_GONE", 0.1)
    monkeypatch.setattr(child, "kill", lambda: None)  # as where the kernel waits for a disk
    try:
        two.end(0)
    finally:
        kill()
        child.join()
        child.close()
    two.start(2)
    assert two.news(60.0) == Ready(2)
