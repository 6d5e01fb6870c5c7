"""Orders: what runs chose, as a file."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from superbatch.actors import Scored
from superbatch.bank import MemoryBank
from superbatch.chosen import Chosen, read_chosen
from superbatch.errors import ConfigError, DataError, RunError
from superbatch.integers import write_integers
from superbatch.loop import Step
from superbatch.orders import (
    batch_starts,
    order_rows,
    policy_order,
    read_order,
    replay_order,
    write_order,
)
from superbatch.recipes import recipe
from superbatch.run import RunFolder
from superbatch.sources import ArrayExamples, catalogue_of
from superbatch.tables.fingerprint import fingerprint


CONFIG = {
    "recipe": "classact",
    "seed": 3,
    "steps": 2,
    "data": {"path": "digits", "seed": 0, "evaluation_fraction": 0.25},
}


def examples_of(ids):
    images = torch.zeros(len(ids), 1, 1, 1, dtype=torch.uint8)
    return ArrayExamples(images, catalogue_of("a test", ids, ("label", ids % 3)))


EXAMPLES = examples_of(np.arange(100, 120))
FINGERPRINT = fingerprint(EXAMPLES)


def made_run(folder, *steps, fingerprint=FINGERPRINT, finished=True, **settings):
    """A run that chose, at each of its steps, these (id, draw) pairs; one part a step."""
    run = RunFolder(folder)
    run.create(CONFIG | {"steps": len(steps)} | settings, {})
    for number, pairs in enumerate(steps, start=1):
        ids, draws = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        columns = {"step": np.full(len(ids), number, dtype=np.int32), "id": ids, "draw": draws}
        run.write_chosen(number, number, columns, fingerprint=fingerprint)
    if finished:
        run.finish({})
    return folder


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "run", [(105, 0), (101, 3)], [(101, 4), (119, 6)])


def saved(order, path):
    write_order(order, path)
    return path


# What a run records


def test_what_is_learned_is_written_in_its_order_at_each_flush(tmp_path):
    folder = RunFolder(tmp_path / "run")
    chosen = Chosen(folder, EXAMPLES)
    bank = MemoryBank(8, generator=torch.Generator().manual_seed(0))
    learned = []
    for number in range(1, 6):
        draws = torch.arange(8) + 8 * number
        scored = Scored({"id": draws % 5 + 10**12, "draw": draws}, torch.zeros(8), {}, 0)
        bank.add(scored.examples, scored.scores)
        draw = bank.sample(4 if number < 5 else 3)  # broken images may leave a step short
        chosen.add(Step(number, (scored,), draw, {}))
        learned += [(number, d % 5 + 10**12, d) for d in draw.examples["draw"].tolist()]
        if number in (2, 5):
            chosen.flush()
            chosen.flush()  # nothing is left to write
    assert [part.name for part in folder.parts("chosen")] == [
        "00000001-00000002.parquet",
        "00000003-00000005.parquet",
    ]
    table = pq.read_table(tmp_path / "run" / "chosen")
    assert table.schema.field("step").type == pa.int32()
    assert [tuple(row.values()) for row in table.to_pylist()] == learned
    record = read_chosen(folder)
    assert (record.fingerprint, record.draws.tolist()) == (FINGERPRINT, [d for _, _, d in learned])


def test_a_rewound_record_ends_at_the_checkpoint(run):
    folder = RunFolder(run)
    folder.rewind(1)
    assert read_chosen(folder).ids.tolist() == [105, 101]


def test_a_chosen_example_takes_few_bytes(tmp_path):
    """The worst kind of ids, 64 random bits, in parts as a run of b = 64 writes them."""
    random = np.random.default_rng(0)
    ids = random.integers(-(2**63), 2**63 - 1, 6400)
    draws = np.sort(random.permutation(12800)[:6400])
    steps = np.repeat(np.arange(1, 101, dtype=np.int32), 64)
    folder = RunFolder(tmp_path)
    folder.write_chosen(1, 100, {"step": steps, "id": ids, "draw": draws}, fingerprint="f00d")
    assert folder.parts("chosen")[0].stat().st_size / 6400 < 10


def test_a_run_without_its_record_is_refused(tmp_path, run):
    with pytest.raises(RunError, match="is not a run folder"):
        replay_order(tmp_path)
    part = RunFolder(run).parts("chosen")[0]
    whole = part.read_bytes()
    part.unlink()
    with pytest.raises(RunError, match="lacks steps 1 to 1; restore"):
        replay_order(run)
    part.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"00000001-00000001.parquet cannot be read .* cut short"):
        replay_order(run)
    for each in RunFolder(run).parts("chosen"):
        each.unlink()
    with pytest.raises(RunError, match=r"has no record of what it chose .* train it again"):
        replay_order(run)


def test_an_unfinished_run_is_taken_only_when_asked(tmp_path):
    folder = made_run(tmp_path / "run", [(105, 0)], [(101, 4)], finished=False)
    RunFolder(folder).rewind(1)
    for made in (replay_order, lambda path: policy_order([path])):
        with pytest.raises(RunError, match=r"1 of 2 steps; finish it with .*--resume"):
            made(folder)
    assert replay_order(folder, allow_unfinished=True).ids.tolist() == [105]
    assert policy_order([folder], allow_unfinished=True).about["runs"][0]["steps"] == 1


@pytest.mark.parametrize("settings", [{"importance_exponent": 0.5}, None])
def test_what_was_learned_with_weights_makes_no_order(tmp_path, settings):
    """An order keeps no weights: its learner would learn something else."""
    select = recipe("infobatch").select.model_dump() if settings is None else settings
    folder = made_run(tmp_path / "run", [(105, 0)], select=select)
    for made in (replay_order, lambda path: policy_order([path])):
        with pytest.raises(RunError, match=r"--select.importance-exponent 0") as refused:
            made(folder)
        assert f"weighted what it chose (exponent {'1' if settings is None else '0.5'})" in str(
            refused.value
        )
    unweighted = made_run(tmp_path / "other", [(105, 0)], select={"importance_exponent": 0.0})
    assert replay_order(unweighted).ids.tolist() == [105]


# The file


def test_a_replay_order_is_the_record(run, tmp_path):
    order = read_order(saved(replay_order(run), tmp_path / "order.parquet"))
    assert (order.kind, len(order)) == ("replay", 4)
    assert order.ids.tolist() == [105, 101, 101, 119]
    assert order.draws.tolist() == [0, 3, 4, 6]
    assert order.steps.tolist() == [1, 1, 2, 2]
    assert order.fingerprint == FINGERPRINT
    (about,) = order.about["runs"]
    assert about == {
        "name": "run",
        "recipe": "classact",
        "seed": 3,
        "steps": 2,
        "examples": 4,
        "config": CONFIG,
    }
    assert order.about["superbatch"]


def test_a_policy_order_has_ids_alone(run, tmp_path):
    path = saved(policy_order([run], examples=8), tmp_path / "order.parquet")
    assert pq.read_schema(path).names == ["id"]
    order = read_order(path)
    assert (order.kind, order.draws, order.steps) == ("policy", None, None)
    assert sorted(order.ids.tolist()) == [101, 101, 101, 101, 105, 105, 119, 119]


def test_other_tools_read_the_order(run, tmp_path):
    table = pq.read_table(saved(replay_order(run), tmp_path / "order.parquet"))
    assert table.column_names == ["id", "draw", "step"]
    about = json.loads(table.schema.metadata[b"superbatch"])
    assert (about["file"], about["format"], about["kind"]) == ("order", 1, "replay")


def test_the_rows_of_an_order(run):
    shuffled = examples_of(np.random.default_rng(0).permutation(np.arange(100, 120)))
    order = replay_order(run)
    rows = order_rows(order, shuffled, np.arange(20))
    assert shuffled.ids[rows].tolist() == [105, 101, 101, 119]


def made_order(folder, *sizes, select=None):
    """The replay order of a run whose steps chose so many examples."""
    draws = iter(range(100))
    run = made_run(folder, *([(100 + next(draws), 0) for _ in range(size)] for size in sizes))
    order = replay_order(run)
    (about,) = order.about["runs"]
    config = about["config"] | ({} if select is None else {"select": {"sub_batch_size": select}})
    return replace(order, about={"runs": [about | {"config": config}], "superbatch": "0"})


def test_a_replay_has_the_steps_of_its_run(tmp_path):
    order = made_order(tmp_path / "run", 3, 2, 3, 1, select=3)
    assert batch_starts(order, 3).tolist() == [0, 3, 5, 8]


def test_a_run_whose_steps_were_all_short_is_still_of_its_batch_size(tmp_path):
    order = made_order(tmp_path / "run", 2, 2, 1, select=3)
    assert batch_starts(order, 3).tolist() == [0, 2, 4]
    assert batch_starts(order, 2) is None


def test_an_order_is_cut_by_positions_at_another_batch_size(tmp_path):
    order = made_order(tmp_path / "run", 3, 2, 3, select=3)
    assert batch_starts(order, 4) is None
    assert batch_starts(order, 2) is None
    assert batch_starts(replace(order, kind="policy", draws=None, steps=None), 3) is None


def test_ids_that_the_data_lacks_are_refused(tmp_path):
    order = replay_order(made_run(tmp_path / "run", [(105, 0), (90, 1), (7, 2), (7, 3), (119, 4)]))
    with pytest.raises(DataError, match=r"2 of its 4 ids, such as 7, 90, are not in it"):
        order_rows(order, EXAMPLES, np.arange(20))


def test_an_order_of_other_data_is_refused(run):
    few = examples_of(np.arange(100, 110))
    with pytest.raises(DataError, match=r"is of other data") as refused:
        order_rows(replay_order(run), few, np.arange(10))
    for value in (FINGERPRINT, fingerprint(few), "1 of its 3 ids, such as 119"):
        assert value in str(refused.value)


def test_ids_that_are_kept_from_training_are_refused(run):
    with pytest.raises(DataError, match=r"1 of its 3 ids, such as 105, are kept") as refused:
        order_rows(replay_order(run), EXAMPLES, np.setdiff1d(np.arange(20), 5))
    assert "--data.seed 0 --data.evaluation-fraction 0.25" in str(refused.value)


def changed(path, **about):
    """The file with other metadata."""
    table = pq.read_table(path)
    said = json.loads(table.schema.metadata[b"superbatch"]) | about
    pq.write_table(table.replace_schema_metadata({"superbatch": json.dumps(said)}), path)


def test_files_that_are_no_order_are_refused(run, tmp_path):
    path = tmp_path / "order.parquet"
    with pytest.raises(DataError, match=r"there is no file .*order\.parquet"):
        read_order(path)
    path.write_text("id\n1\n")
    with pytest.raises(DataError, match="cut short, broken or no parquet"):
        read_order(path)
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(DataError, match="is no superbatch order but some other parquet file"):
        read_order(path)
    write_integers(path, {"id": np.arange(2)}, kind="record", about={})
    with pytest.raises(DataError, match="is no superbatch order but some record"):
        read_order(path)
    table = pa.table({"id": [1], "loss": [0.5]})
    pq.write_table(table.replace_schema_metadata({"superbatch": '{"columns": {}}'}), path)
    with pytest.raises(DataError, match="is no superbatch order but some table of losses"):
        read_order(path)


def test_an_order_that_was_damaged_is_refused(run, tmp_path):
    path = saved(replay_order(run), tmp_path / "order.parquet")
    whole = path.read_bytes()
    for length in (len(whole) - 9, len(whole) // 2, 3, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut short"):
            read_order(path)
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).drop_columns(["draw"]), path)
    with pytest.raises(DataError, match="no column 'draw'; its columns are id, step"):
        read_order(path)
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    with pytest.raises(DataError, match="has 3 rows and says that it has 4"):
        read_order(path)
    path.write_bytes(whole)
    for about, message in (
        ({"kind": "dream"}, "kind 'dream' and this version knows replay and policy"),
        ({"format": 2}, r"of format 2 and this version .* up to format 1; update superbatch"),
    ):
        changed(path, **about)
        with pytest.raises(DataError, match=message):
            read_order(path)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"no JSON", "its metadata is no JSON object"),
        (b"\xff", "its metadata is no JSON object"),
        (b"[1]", "its metadata is no JSON object"),
        (b'{"file": "order"}', "does not say its format"),
        (b'{"file": "order", "format": "new"}', "does not say its format"),
        *(
            (name, f"does not say its {name}; it was changed since superbatch wrote it")
            for name in ("kind", "examples", "runs", "fingerprint", "superbatch")
        ),
        ({"runs": []}, "does not say its runs"),
        ({"runs": [{"name": "run"}]}, "does not say its runs"),
        ({"runs": "run"}, "does not say its runs"),
    ],
)
def test_metadata_that_was_changed_is_refused(run, tmp_path, said, message):
    """``said``: all of it, a field that is taken away, or fields that are changed."""
    path = saved(replay_order(run), tmp_path / "order.parquet")
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"superbatch"])
    if isinstance(said, str):
        del about[said]
    elif isinstance(said, dict):
        about |= said
    whole = said if isinstance(said, bytes) else json.dumps(about)
    pq.write_table(table.replace_schema_metadata({"superbatch": whole}), path)
    with pytest.raises(DataError, match=message):
        read_order(path)


def test_ids_that_are_no_integers_are_refused(run, tmp_path):
    path = saved(policy_order([run]), tmp_path / "order.parquet")
    metadata = pq.read_schema(path).metadata
    for values in (["a", "b", "c", "d"], [1, 2, 3, None]):
        pq.write_table(pa.table({"id": values}).replace_schema_metadata(metadata), path)
        with pytest.raises(DataError, match=r"column 'id' .* integers are needed"):
            read_order(path)


def test_runs_that_cannot_be_averaged_are_refused(run, tmp_path):
    longer = made_run(tmp_path / "longer", [(105, 0)] * 6)
    with pytest.raises(ConfigError, match="the runs chose 4 to 6 examples; say how many"):
        policy_order([run, longer])
    assert len(policy_order([run, longer], examples=5)) == 5
    other = made_run(tmp_path / "other", [(105, 0)], fingerprint="f00d")
    with pytest.raises(DataError, match=r"of different data .* f00d; distil them apart"):
        policy_order([run, other])
    with pytest.raises(ConfigError, match="none was given"):
        policy_order([])
    with pytest.raises(ConfigError, match="0 were asked for"):
        policy_order([run], examples=0)
