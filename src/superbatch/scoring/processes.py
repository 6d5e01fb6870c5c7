"""Scoring in several processes: each opens the data and the models itself and takes every n-th
block. The blocks, and so the table, are those of one process.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.multiprocessing as processes

from superbatch.errors import Failed, SuperbatchError
from superbatch.scoring.blocks import Job, Parts, score


def score_in_processes(
    setup: Callable[[], Job],
    parts: Parts,
    numbers: Sequence[int],
    *,
    count: int,
    progress: Callable[[int], None],
) -> None:
    """Score the blocks ``numbers`` into ``parts`` in ``count`` processes.

    ``setup`` must be picklable; each process calls it once. ``progress`` is told rows as added.
    Threads are shared out evenly; sums are the same bits where a process has as many as one alone.
    Raises the first process's error, or ``Failed`` if one was killed; finished blocks stay.
    """
    context = processes.get_context("spawn")
    told = context.Queue()
    threads = max(1, torch.get_num_threads() // count)
    actors = [
        context.Process(
            target=_act, args=(setup, parts, numbers[place::count], threads, told), daemon=False
        )
        for place in range(count)
    ]
    for actor in actors:
        actor.start()
    try:
        _follow(actors, told, progress)
    finally:
        for actor in actors:
            actor.terminate()
        for actor in actors:
            actor.join()


def _act(
    setup: Callable[[], Job], parts: Parts, numbers: Sequence[int], threads: int, told: Any
) -> None:
    starter = processes.parent_process()

    def tell(rows: int) -> None:
        if starter is not None and not starter.is_alive():
            raise SystemExit  # killed: whoever starts again scores what is left
        told.put(rows)

    try:
        torch.set_num_threads(threads)
        score(setup(), parts, numbers, tell)
    except SuperbatchError as error:
        told.put(error)
    except KeyboardInterrupt:
        pass  # the one who started us says so
    else:
        told.put(None)


def _follow(actors: Sequence[Any], told: Any, progress: Callable[[int], None]) -> None:
    working = len(actors)
    while working:
        # Looked at before the queue: what an actor said before it ended is heard first.
        ended = [actor.exitcode for actor in actors if actor.exitcode not in (None, 0)]
        if told.empty():
            if ended:
                raise Failed(
                    f"a scoring process ended with code {ended[0]} (-9: killed, often for want of "
                    "memory); give the same command again to go on from the finished blocks, or "
                    "a smaller --actors.count"
                )
            time.sleep(0.05)
            continue
        word = told.get()
        if isinstance(word, SuperbatchError):
            raise word
        if word is None:
            working -= 1
        else:
            progress(word)
