"""Runs on 1, 2 and 4 ranks: one choice, one record, and each goes on where another stopped."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ranked import spawn
from superbatch import feed, training
from superbatch.chosen import read_chosen
from superbatch.errors import DataError, RunError, Stopped
from superbatch.problems import problem_of
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.surroundings import Surroundings


STEPS, STOP = 6, 3
pytestmark = pytest.mark.slow  # processes that wait for each other


def config(name, out, **sections):
    base = recipe(name).changed(
        steps=STEPS,
        out=str(out),
        models={"learner": "mu-1000/4", "online": "mu-2400/4", "reference": "mu-2400/4"},
        select={"super_batch_size": 32, "sub_batch_size": 16},
        reference_training={"steps": 2},
        data={"flip": True},
        record={"log_every": 1, "evaluate_every": 3},
    )
    return base.changed(**sections)


RENEWED = {"max_staleness": 1, "when_stale": "rescore", "keep_examples": False}
RUNS = {
    "classact": {"select": {"bank_super_batches": 3} | RENEWED},
    "rho_loss": {"ranks": {"kind": "fsdp"}, "optimise": {"micro_batch_size": 6}},
    "classact_online": {"reference_training": {"batch_multiple": 2}},
    "hard": {
        "ranks": {"selection": "local"},
        "select": {"bank_super_batches": 2, "samples_per_insert": 1.0},
    },
}


def stopping():
    asked = iter(range(10**6))
    return Surroundings(stop=lambda: next(asked) + 1 >= STOP)


def stopped(name, out):
    with pytest.raises(Stopped):
        training.start(config(name, out, **RUNS[name]), stopping())


def short(out, data):
    """Uniform on data with two broken images: a batch comes out short."""
    training.start(
        config(
            "uniform",
            out,
            data={"path": str(data), "flip": False},
            select={"sub_batch_size": 48},
            record={"selection": "none", "evaluate_every": STEPS},
        )
    )


def two(rank, folder):
    for name in RUNS:
        training.start(config(name, folder / f"{name}-two", **RUNS[name]))
        stopped(name, folder / f"{name}-two-four")
        training.resume(folder / f"{name}-one-two") if name != "hard" else None
    short(folder / "short-two", folder / "broken.parquet")
    try:
        training.start(config("uniform", folder / "hard-two"))
    except RunError as error:
        return str(error)


def four(rank, folder):
    for name in RUNS:
        training.resume(folder / f"{name}-two-four")
    short(folder / "short-four", folder / "broken.parquet")


def unlike(rank, folder):
    """Each rank opens a set of its own."""
    generator = np.random.default_rng(rank)
    images = generator.integers(0, 255, (200, 8, 8), dtype=np.uint8)
    np.savez(folder / f"{rank}.npz", images=images, labels=np.arange(200) % (3 + rank))
    try:
        training.start(
            config("hard", folder / "unlike", data={"path": str(folder / f"{rank}.npz")})
        )
    except DataError as error:
        return str(error)


def few(name, out, data, **sections):
    """Two images of a batch for each of four ranks."""
    return config(
        name,
        out,
        select={"super_batch_size": 8, "sub_batch_size": 4},
        data={"path": str(data)},
        **{"reference_training": {"batch_multiple": 2}} | sections,
    )


def without_a_share(rank, folder):
    for name in ("hard", "classact_online"):
        training.start(few(name, folder / f"{name}-four", folder / "holes.parquet"))
    local = {"ranks": {"kind": "fsdp", "selection": "local"}}
    training.start(few("hard", folder / "local-four", folder / "holes.parquet", **local))


def write_broken(path, broken=(7, 123), count=300):
    """Images, a few of them broken."""
    generator = np.random.default_rng(0)
    images, labels = [], generator.integers(0, 3, count)
    for _ in labels:
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    for row in broken:
        images[row] = b"not an image"
    pq.write_table(pa.table({"image": images, "label": labels}), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs by their name and the ranks that they had, one after another."""
    folder = tmp_path_factory.mktemp("runs")
    write_broken(folder / "broken.parquet")
    for name in RUNS:
        if name != "hard":
            training.start(config(name, folder / f"{name}-one", **RUNS[name]))
            stopped(name, folder / f"{name}-one-two")
    short(folder / "short-one", folder / "broken.parquet")
    said = spawn(two, 2, folder)
    (folder / "said.json").write_text(json.dumps(said))
    for name in RUNS:
        shutil.copytree(folder / f"{name}-two-four", folder / f"{name}-two-one")
        training.resume(folder / f"{name}-two-one")
    spawn(four, 4, folder)
    return folder


def learned(path):
    record = read_chosen(RunFolder(path))
    return record.steps.tolist(), record.ids.tolist(), record.draws.tolist()


def summary(path):
    return json.loads((path / "summary.json").read_text())


PAIRS = [
    *((f"{name}-one", f"{name}-{ranks}") for name in RUNS if name != "hard"
      for ranks in ("two", "one-two", "two-one", "two-four")),
    ("hard-two", "hard-two-one"),
    ("hard-two", "hard-two-four"),
    ("short-one", "short-two"),
    ("short-one", "short-four"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_same_is_chosen_in_the_same_order(folder, one, other):
    assert learned(folder / one) == learned(folder / other)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_all_that_ran_is_counted_once(folder, one, other):
    first, second = summary(folder / one), summary(folder / other)
    for name in ("flops", "examples_seen", "examples_learned", "skipped_images"):
        assert first[name] == second[name], name


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_record_is_one_runs(folder, one, other):
    rows = [RunFolder(folder / name).metrics() for name in (one, other)]
    for first, second in zip(*rows, strict=True):
        assert first.keys() == second.keys()
        for name in set(first) - {"seconds"}:
            assert first[name] == pytest.approx(second[name], rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_weights_are_one_runs(folder, one, other):
    first, second = (
        torch.cat([w.flatten() for _, w in sorted(load_file(path).items())])
        for path in (folder / name / "checkpoints/learner.safetensors" for name in (one, other))
    )
    # Adam makes whole steps of rounding where a gradient is 0, that of a key's bias for one.
    assert (first - second).norm() / first.norm() < 1e-3


def test_every_score_is_written_once(folder):
    tables = [
        pa.concat_tables(
            [pq.read_table(part) for part in RunFolder(folder / name).parts("selection")]
        )
        for name in ("classact-one", "classact-two-four")
    ]
    first, second = (table.select(["step", "id", "chosen"]).to_pydict() for table in tables)
    assert first == second
    assert len(first["id"]) >= STEPS * 32


def test_short_super_batches_are_there(folder):
    assert summary(folder / "short-one")["skipped_images"] == 2
    assert summary(folder / "short-one")["examples_learned"] < STEPS * 48


def test_what_one_rank_refuses_all_refuse(folder):
    for said in json.loads((folder / "said.json").read_text()):
        assert "hard-two exists; continue that run with --resume" in said


def test_ranks_that_open_other_data_are_refused_before_anything_is_written(tmp_path):
    for said in spawn(unlike, 2, tmp_path):
        assert "rank 1 reads other data than rank 0: the data is" in said
        assert "every process and host must read the same files" in said
    assert not (tmp_path / "unlike").exists()


def test_a_part_without_one_readable_image_is_a_part_of_the_same_batch(tmp_path):
    data = tmp_path / "holes.parquet"
    write_broken(data, (), 500)
    whole = few("classact_online", tmp_path / "run", data)
    problem = problem_of(whole)
    scored = feed.stream_of(whole, problem, 8, feed.scored_view_of(whole)).ids_of(2)
    alone = feed.reference_stream_of(whole, problem).ids_of(3)
    write_broken(data, [*scored[2:4], *alone[4:6]], 500)  # of the second rank, and of the third
    for name in ("hard", "classact_online"):
        training.start(few(name, tmp_path / f"{name}-one", data))
    spawn(without_a_share, 4, tmp_path)
    for name in ("hard", "classact_online"):
        assert learned(tmp_path / f"{name}-one") == learned(tmp_path / f"{name}-four")
        rows = [RunFolder(tmp_path / f"{name}-{ranks}").metrics() for ranks in ("one", "four")]
        for first, second in zip(*rows, strict=True):
            for loss in {"learner/loss", "online/loss", "reference/loss"} & first.keys():
                assert first[loss] == pytest.approx(second[loss], rel=1e-4), loss
    assert summary(tmp_path / "local-four")["skipped_images"] >= 2
