"""Random numbers for one use say nothing of those for another."""

import pytest

from superbatch import training
from superbatch.problems import problem_of
from superbatch.recipes import recipe
from superbatch.reference_run import reference_config
from superbatch.run import RunFolder
from superbatch.surroundings import Surroundings


def run_of(config, folder):
    return training.Run(config, problem_of(config), RunFolder(folder), Surroundings())


def tiny(name, **sections):
    base = recipe(name).changed(
        seed=3,
        models={"learner": "mu-2400/4", "online": "mu-2400/4", "reference": "mu-2400/4"},
        select={"super_batch_size": 32, "sub_batch_size": 16},
    )
    return base.changed(**sections)


def seen(stream, steps=3):
    return [set(stream.ids_of(step).tolist()) for step in range(1, steps + 1)]


def shared(ours, theirs):
    return sum(len(mine & other) for mine, other in zip(ours, theirs, strict=True))


def test_a_reference_alongside_learns_other_examples_than_are_scored(tmp_path):
    run = run_of(tiny("classact_online", reference_training={"batch_multiple": 2}), tmp_path)
    ours, theirs = seen(run.stream), seen(run.uniform["reference"])
    assert [len(batch) for batch in ours] == [len(batch) for batch in theirs] == [32, 32, 32]
    # Two uniform draws of 32 from 1,438 share 0.7 on average.
    assert shared(ours, theirs) < 10


@pytest.mark.parametrize("name", ["classact", "rho_loss"])
def test_a_reference_beforehand_is_a_run_with_a_seed_of_its_own(name, tmp_path):
    config = tiny(name, reference_training={"data": "pool"}, data={"holdout_fraction": 0.0})
    of_reference = reference_config(config, {})
    assert of_reference.seed != config.seed
    assert of_reference.seed == reference_config(config, {}).seed
    assert of_reference.seed != reference_config(config.changed(seed=4), {}).seed
    # With 16 at a time the learner's first 96 examples would be the reference's first 96.
    same_size = config.changed(select={"super_batch_size": 16})
    ours = seen(run_of(same_size, tmp_path / "ours").stream, 6)
    theirs = seen(run_of(of_reference, tmp_path / "theirs").stream, 6)
    assert shared(ours, theirs) < 10


def test_another_seed_is_another_stream(tmp_path):
    ours, theirs = (
        seen(run_of(tiny("uniform", seed=seed), tmp_path / str(seed)).stream) for seed in (3, 4)
    )
    assert shared(ours, theirs) < 10
