"""The run that trains a reference beforehand: what it takes over from the learner's."""

import pytest

from superbatch.recipes import recipe
from superbatch.reference_run import reference_config


NOISY = {
    "label_noise": 0.25,
    "subset": "kept.txt",
    "order": "run.order",
    "holdout_fraction": 0.5,
    "flip": True,
    "crop_padding": 2,
}


def test_a_curated_set_is_read_without_the_noise_of_the_experiment():
    config = recipe("classact_ho").changed(
        reference_data="curated.npz", data=NOISY | {"path": "web.npz", "label": "noisy"}
    )
    data = reference_config(config, {"image_size": 8}).data
    assert data.path == "curated.npz"
    assert (data.label_noise, data.truth, data.subset, data.order) == (0.0, None, None, None)
    assert (data.holdout_fraction, data.part) == (0.0, "pool")
    # Its images are made to fit, and augmented as the learner's.
    assert (data.image_size, data.flip, data.crop_padding) == (8, True, 2)


def test_a_curated_set_has_no_column_of_true_labels():
    config = recipe("classact").changed(
        reference_data="curated.npz", data={"path": "web.npz", "truth": "human"}
    )
    assert reference_config(config, {}).data.truth is None


def test_curated_pairs_are_read_as_they_are():
    config = recipe("active_clip").changed(
        reference_data="curated.tar",
        data={"path": "web.tar", "caption_noise": 0.3, "deduplicate": True},
    )
    data = reference_config(config, {}).data
    assert (data.caption_noise, data.deduplicate) == (0.0, False)


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("classact", None, "pool"),
        ("classact_ho", None, "holdout"),
        ("rho_loss_halves", "first_half", "first_half"),
    ],
)
def test_a_reference_on_the_learners_data_meets_its_noise(name, part, expected):
    config = recipe(name).changed(data=NOISY | {"deduplicate": True})
    data = reference_config(config, {"image_size": 8}, part).data
    assert data.part == expected
    assert (data.label_noise, data.subset, data.holdout_fraction) == (0.25, "kept.txt", 0.5)
    # An order is what the learner learns in; an order's and a reference's examples are all drawn.
    assert (data.order, data.deduplicate, data.image_size) == (None, False, None)


def test_a_reference_learns_uniformly_by_the_learners_settings():
    config = recipe("jest").changed(
        steps=70,
        device="cpu",
        models={"reference": "mu-1000/8"},
        optimise={"weight_decay": 0.3, "beta2": 0.95, "clip_norm": 0.5},
        ranks={"timeout_seconds": 12.5},
        record={"selection": "all", "tensorboard": True, "checkpoint_every": 9},
    )
    found = reference_config(config, {})
    assert (found.recipe, found.task, found.steps, found.device) == (
        "siglip",
        "image_text",
        70,
        "cpu",
    )
    select = found.select
    assert (select.criterion, select.super_batch_size, select.sub_batch_size) == ("uniform", 64, 64)
    assert not select.joint
    assert found.models.learner == "mu-1000/8"
    optimise = found.optimise
    assert (optimise.weight_decay, optimise.beta2, optimise.clip_norm) == (0.3, 0.95, 0.5)
    assert found.ranks.timeout_seconds == 12.5
    record = found.record
    assert (record.selection, record.tensorboard, record.checkpoint_every) == ("none", False, 9)
    assert record.evaluate_every == 70
    assert reference_config(recipe("active_clip"), {}).recipe == "clip"
    assert reference_config(config.changed(reference_training={"steps": 5}), {}).steps == 5
