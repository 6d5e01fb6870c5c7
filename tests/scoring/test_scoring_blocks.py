"""Scoring in blocks: each example once, in the order of ids, whatever interrupts."""

import queue
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from superbatch.errors import DataError, RunError
from superbatch.scoring import Job, Parts, blocks_of, score
from superbatch.scoring.processes import _act, _follow, score_in_processes
from superbatch.tables import fingerprint


COUNT = 50


class Data:
    """Examples whose ids go down as rows go up; those of ``broken`` cannot be read."""

    def __init__(self, broken=()):
        self.ids = np.arange(COUNT)[::-1] * 3
        self.labels = self.ids % 7
        self.image_shape = (1, 8, 8)
        self.broken = broken
        self.skipped = frozenset()
        self.was_read = []

    def read(self, rows):
        if isinstance(self.broken, str):
            raise DataError("nothing here can be read")
        ids = self.ids[rows]
        ids = ids[~np.isin(ids, self.broken)]
        self.was_read.extend(ids.tolist())
        return {"id": torch.from_numpy(ids.copy())}


def loss(batch):
    """A NaN and an infinity, at ids 30 and 33."""
    values = batch["id"].double().sqrt()
    values[batch["id"] == 30] = float("nan")
    values[batch["id"] == 33] = float("inf")
    return {"loss": values}


def plain_loss(batch):
    return {"loss": batch["id"].double().sqrt()}


def job_of(data, measure=plain_loss, *, block_size=8, batch_size=3, workers=0):
    blocks = blocks_of(data.ids, np.arange(COUNT), block_size)
    return Job(data, measure, blocks, batch_size, torch.device("cpu"), workers)


def finished(job, parts):
    """Score what is left; ids and losses by the parts."""
    told = []
    score(job, parts, parts.left(len(job.blocks)), told.append)
    pieces = list(parts.pieces(len(job.blocks), ["loss"]))
    ids = np.concatenate([piece.ids for piece in pieces])
    return ids.tolist(), np.concatenate([piece.losses["loss"] for piece in pieces]), sum(told)


def test_blocks_are_the_rows_in_the_order_of_ids():
    ids = np.array([30, 10, 20, 50, 40])
    blocks = blocks_of(ids, np.array([0, 1, 3, 4]), 3)
    assert [block.tolist() for block in blocks] == [[1, 0, 4], [3]]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_example_is_scored_once(tmp_path, workers):
    data = Data()
    job = job_of(data, workers=workers)
    ids, losses, told = finished(job, Parts(tmp_path))
    assert ids == [3 * number for number in range(COUNT)]
    assert losses.tolist() == np.sqrt(ids).astype(np.float32).tolist()
    assert told == COUNT
    totals = Parts(tmp_path).totals(len(job.blocks), of=COUNT)
    assert (totals.rows, totals.skipped, totals.not_finite) == (COUNT, 0, 0)
    assert totals.fingerprint == fingerprint(data)


def test_a_finished_block_is_not_scored_again(tmp_path):
    data, parts = Data(), Parts(tmp_path)
    job = job_of(data)
    calls = 0

    def interrupted(batch):
        nonlocal calls
        calls += 1
        if calls == 8:  # in the third block of three batches each
            raise KeyboardInterrupt
        return plain_loss(batch)

    with pytest.raises(KeyboardInterrupt):
        finished(job_of(data, interrupted), parts)
    assert parts.left(len(job.blocks)) == [2, 3, 4, 5, 6]
    data.was_read.clear()
    ids, losses, _ = finished(job, parts)
    assert data.was_read == [3 * number for number in range(16, COUNT)]
    assert losses.tolist() == np.sqrt(ids).astype(np.float32).tolist()


def test_broken_images_and_losses_not_finite_are_left_out_and_counted(tmp_path):
    data = Data(broken=[6])
    job, parts = job_of(data, loss), Parts(tmp_path)
    ids, losses, _ = finished(job, parts)
    assert ids == [3 * number for number in range(COUNT) if 3 * number not in (6, 30, 33)]
    assert np.isfinite(losses).all()
    with pytest.raises(DataError, match=r"1 of 50 images cannot be decoded \(the limit is 1%\)"):
        parts.totals(len(job.blocks), of=COUNT)  # as `Examples.read` refuses more than 1 % of all
    assert parts.totals(len(job.blocks), of=100).skipped == 1  # where others were scored before
    data.broken = []
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    finished(job, parts)
    totals = parts.totals(len(job.blocks), of=COUNT)
    assert (totals.rows, totals.skipped, totals.not_finite) == (48, 0, 2)
    assert totals.fingerprint == fingerprint(data, np.flatnonzero(~np.isin(data.ids, [30, 33])))


def test_a_block_without_one_row_is_no_trouble(tmp_path):
    data = Data(broken=np.arange(24))
    job, parts = job_of(data), Parts(tmp_path)
    ids, _, _ = finished(job, parts)
    assert ids == [3 * number for number in range(8, COUNT)]


def test_embeddings_are_lists_of_float16(tmp_path):
    def measure(batch):
        return plain_loss(batch) | {"image": batch["id"][:, None] + torch.tensor([0.0, 0.5])}

    job, parts = job_of(Data(), measure), Parts(tmp_path)
    finished(job, parts)
    first = next(parts.tables(len(job.blocks)))
    kind = first.schema.field("image").type
    assert (str(kind.value_type), kind.list_size) == ("halffloat", 2)
    assert first["image"].to_pylist()[:2] == [[0, 0.5], [3, 3.5]]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_reading_refuses_is_said_without_a_worker_traceback(tmp_path, workers):
    job = job_of(Data(broken="all"), workers=workers)
    with pytest.raises(DataError, match=r"^nothing here can be read$"):
        score(job, Parts(tmp_path), [0], lambda rows: None)


def test_the_blocks_of_another_scoring_are_not_taken(tmp_path):
    Parts(tmp_path).claim({"loss": "of weights 12", "batch_size": 3})
    Parts(tmp_path).claim({"loss": "of weights 12", "batch_size": 3})
    with pytest.raises(RunError, match=r"differs in batch_size \(3 and 4\); remove it, or give"):
        Parts(tmp_path).claim({"loss": "of weights 12", "batch_size": 4})


def test_a_damaged_folder_says_what_to_remove(tmp_path):
    job, parts = job_of(Data()), Parts(tmp_path / "parts")
    parts.claim({})
    finished(job, parts)
    (tmp_path / "parts" / "000002.parquet").write_bytes(b"PAR1")
    again = r"000002.parquet is damaged \(.*\); remove it, and the same command scores that block"
    with pytest.raises(DataError, match=again):
        parts.totals(len(job.blocks), of=COUNT)
    with pytest.raises(DataError, match=again) as damaged:
        list(parts.tables(len(job.blocks)))
    assert damaged.value.__context__ is None
    (tmp_path / "parts" / "about.json").write_text("{")
    with pytest.raises(
        RunError, match=r"about.json is not valid JSON .* remove .*parts to score all"
    ):
        parts.claim({})


def test_one_process_at_a_time_writes_to_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    parts, others = Parts(tmp_path), Parts(tmp_path)
    parts.claim({})
    with (
        parts.alone(),
        pytest.raises(RunError, match=r"another superbatch score writes to .* now"),
        others.alone(),
    ):
        pass
    with others.alone():
        others.remove()


def test_parts_are_removed_whole(tmp_path):
    parts = Parts(tmp_path / "t.parts")
    parts.claim({})
    (tmp_path / ".t.parts.done").mkdir()  # by a removal that was killed
    (tmp_path / ".t.parts.done" / "000001.parquet").touch()
    parts.remove()
    assert list(tmp_path.iterdir()) == []
    parts.remove()


def job_in_a_process(broken):
    return job_of(Data(broken))


def test_several_processes_make_the_same_blocks(tmp_path):
    job = job_in_a_process(())
    one, several = Parts(tmp_path / "one"), Parts(tmp_path / "several")
    (tmp_path / "several").mkdir()
    expected = finished(job, one)
    told = []
    setup = partial(job_in_a_process, ())
    score_in_processes(setup, several, several.left(7), count=2, progress=told.append)
    assert sum(told) == COUNT
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "several" / path.name).read_bytes()
    assert several.left(7) == []
    assert len(expected[0]) == COUNT


def test_what_a_process_refuses_is_said_here(tmp_path):
    told = queue.Queue()
    _act(partial(job_in_a_process, "all"), Parts(tmp_path), [0], torch.get_num_threads(), told)
    with pytest.raises(DataError, match=r"^nothing here can be read$"):
        _follow([SimpleNamespace(exitcode=0)], told, lambda rows: None)


def test_a_process_that_was_killed_is_reported():
    told = queue.Queue()
    told.put(5)
    counted = []
    with pytest.raises(RunError, match=r"ended with code -9 .* go on from the finished blocks"):
        _follow([SimpleNamespace(exitcode=-9)], told, counted.append)
    assert counted == [5]
