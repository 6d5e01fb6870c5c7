"""Actors as processes of this host, which may share memory with it.

Each actor has a pipe of its own and takes no lock, so that one that is killed, at any instant,
holds nobody else up. Actors end when they are told to, and when the process that started them is
gone, however it went.
"""

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, resource_tracker
from typing import Any, Literal, final

import torch
import torch.multiprocessing as processes

from superbatch.actors.actor import Work
from superbatch.actors.news import Crashed, Died, News, Ready
from superbatch.errors import ConfigError, SuperbatchError


Method = Literal["forkserver", "spawn"]
"""How a process comes to be: by a server that has imported everything, which takes milliseconds,
or from nothing, which takes seconds, but may use a GPU that its starter uses."""

_FOR_THE_STARTER = {signal.SIGINT, signal.SIGTERM}
_GONE = 10.0  # seconds in which the kernel takes away who was killed


@dataclass
class _Place:
    process: Any
    pipe: Any
    listener: threading.Thread


@dataclass(frozen=True)
class _Silent:
    """The pipe of an actor has ended."""

    actor: int


@final
class Processes:
    """A ``Transport`` to processes of this host, each of which makes its work by ``setup``.

    What they share with this process is passed on with ``setup``. Each computes in ``threads``
    threads, on ``cores`` if any are named.
    """

    def __init__(
        self,
        setup: Callable[[], Work],
        *,
        threads: int = 1,
        cores: Sequence[int] = (),
        method: Method = "forkserver",
    ) -> None:
        self._setup = setup
        self._threads = threads
        self._cores = tuple(cores)
        self._context: Any = processes.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload([__name__, *modules_of(setup), *slow_modules()])
        self._places: dict[int, _Place] = {}
        self._news: queue.SimpleQueue[News | _Silent] = queue.SimpleQueue()

    def start(self, actor: int) -> None:
        """See ``Transport.start``; the first waits for the server of processes to be there."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_act,
            args=(self._setup, actor, theirs, self._threads, self._cores),
            name=f"superbatch actor {actor}",
            daemon=True,
        )
        with _signals_kept():
            process.start()
        theirs.close()
        listener = threading.Thread(target=self._listen, args=(actor, ours), daemon=True)
        self._places[actor] = _Place(process, ours, listener)
        listener.start()

    def ask(self, actor: int, number: int) -> None:
        """See ``Transport.ask``."""
        with suppress(OSError):  # it is dead, as the news will say
            self._places[actor].pipe.send(number)

    def news(self, seconds: float) -> News | None:
        """See ``Transport.news``."""
        until = time.monotonic() + seconds
        while True:
            try:
                news = self._news.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if news.actor in self._places:  # others were ended since they said it
                break
        if isinstance(news, _Silent):
            process = self._places[news.actor].process
            process.join(_GONE)
            how = f"it ended with code {process.exitcode} (-9: killed, often for want of memory)"
            return Died(news.actor, how)
        return news

    def end(self, actor: int) -> None:
        """See ``Transport.end``."""
        place = self._places.pop(actor)
        place.process.kill()
        place.process.join(_GONE)
        place.listener.join(_GONE)
        place.pipe.close()
        if place.process.exitcode is not None:  # the kernel may keep one that waits for a disk
            place.process.close()

    def close(self) -> None:
        """See ``Transport.close``."""
        for place in self._places.values():
            place.process.kill()
        for actor in list(self._places):
            self.end(actor)

    def _listen(self, actor: int, pipe: Any) -> None:
        # In a thread, so that actors never wait for a learner that is busy; and so that one that
        # is stopped in the middle of its news keeps nobody waiting but the thread.
        with suppress(EOFError, OSError):
            while True:
                self._news.put(pipe.recv())
        self._news.put(_Silent(actor))


def modules_of(setup: Any) -> list[str]:
    """Where ``setup``, and the functions that it is given, were defined."""
    if isinstance(setup, partial):
        return [name for one in (setup.func, *setup.args) for name in modules_of(one)]
    return [setup.__module__] if callable(setup) else []


def slow_modules() -> list[str]:
    """What takes seconds to import and was needed here, so that every actor will need it too."""
    slow = (
        "open_clip",
        "sklearn.datasets",
        "timm.models.vision_transformer",
        "torchvision.io",
        "torchvision.transforms.v2",
    )
    return [name for name in slow if name in sys.modules]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Within: Ctrl-C and SIGTERM wait, and processes that are started never see them."""
    resource_tracker.ensure_running()  # or it would be started within, and let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_STARTER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _act(
    setup: Callable[[], Work],
    actor: int,
    pipe: Any,
    threads: int,
    cores: tuple[int, ...],
) -> None:
    """What an actor's process does: answer what it is asked until nobody is left to ask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_STARTER)  # whoever started us decides
    threading.Thread(target=_leave_with_the_starter, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # nobody is left to ask, or to be told
        try:
            _keep_to(cores)
            work = setup()
        except Exception as error:
            pipe.send(_crashed(actor, None, error))
            return
        pipe.send(Ready(actor))
        while True:
            number = pipe.recv()
            try:
                answer = work(actor, number)
            except Exception as error:
                pipe.send(_crashed(actor, number, error))
                return
            pipe.send(answer)


def _keep_to(cores: tuple[int, ...]) -> None:
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        names = ", ".join(map(str, cores))
        raise ConfigError(
            f"actors cannot keep to --actors.cores {names} here ({error.strerror}); leave it out"
        ) from error


def _crashed(actor: int, number: int | None, error: Exception) -> Crashed:
    known = error if isinstance(error, SuperbatchError) else None
    return Crashed(actor, number, known, "".join(traceback.format_exception(error)))


def _leave_with_the_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        connection.wait([starter.sentinel])
        os._exit(1)
