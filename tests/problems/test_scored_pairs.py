"""Tables of pairs: similarities and embeddings, scored once."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from made_shards import write_digits
from superbatch.checkpoint import save_weights
from superbatch.cli import main
from superbatch.models.two_tower import build_two_tower
from superbatch.sources.pairs import open_pairs


pytest.importorskip("open_clip", reason="models of pairs need the extra [clip]")

CONTEXT = 10


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A folder with a shard, a checkpoint and their table; the embeddings by the model alone."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        shard = write_digits(folder / "pool.tar", 0, 12)
        pairs = open_pairs(shard, context=CONTEXT)
        sizes = {"image_size": 8, "context": CONTEXT, "vocabulary": pairs.vocabulary}
        model = build_two_tower("mu-2400/2", **sizes, sigmoid=True, seed=3).eval()
        about = sizes | {"task": "image_text", "model": "mu-2400/2", "loss": "sigmoid"}
        save_weights(folder / "model.safetensors", model.state_dict(), about)
        flags = ["--model", str(folder / "model.safetensors"), "--data.path", shard, "--embeddings"]
        assert main(["score", *flags, "--out", str(folder / "table.parquet"), "--json"]) == 0
        with torch.no_grad():
            batch = pairs.read(np.arange(24))
            said = model(batch["image"].float() / 127.5 - 1, batch["text"])
        yield folder, said


def test_a_row_is_minus_the_scaled_cosine(scored):
    folder, (image, text, _, _) = scored
    table = pq.read_table(folder / "table.parquet")
    assert table["id"].to_pylist() == list(range(24))
    expected = -20 * (image * text).sum(dim=1)  # --contrastive.score-scale is 20
    np.testing.assert_allclose(table["loss"].to_numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
    about = json.loads(table.schema.metadata[b"superbatch"])
    assert (about["columns"]["loss"]["loss"], about["columns"]["loss"]["scale"]) == ("dot", 20)
    assert "captions cut to 10 tokens" in about["preprocessing"]


def test_embeddings_are_kept_beside(scored):
    folder, (image, text, _, _) = scored
    kept = pq.read_table(folder / "table.embeddings.parquet")
    assert kept.schema.names == ["id", "image", "text"]
    for name, expected in (("image", image), ("text", text)):
        values = np.stack(kept[name].to_numpy())
        assert values.dtype == np.float16
        np.testing.assert_allclose(values, expected.numpy(), atol=1e-3)
    assert b"superbatch" in kept.schema.metadata


def test_the_table_is_verified(scored, capsys):
    folder, _ = scored
    words = ["--data.path", str(folder / "pool.tar"), "--json"]
    assert main(["table", "verify", str(folder / "table.parquet"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["columns"]["loss"]["recomputed"] == 24
    # Other captions of the same images are other data.
    words += ["--data.caption-noise=0.5"]
    assert main(["table", "verify", str(folder / "table.parquet"), *words]) == 2
    assert "a table of other data" in capsys.readouterr().err


def test_a_loss_that_needs_a_batch_cannot_be_kept(scored, capsys):
    folder, _ = scored
    words = ["--model", str(folder / "model.safetensors"), "--data.path", str(folder / "pool.tar")]
    words += ["--contrastive.act=contrastive", "--out", str(folder / "no.parquet")]
    assert main(["score", *words]) == 2
    assert "depends on the others in its batch and cannot be kept" in capsys.readouterr().err


def test_noisy_captions_are_scored_as_they_are_shown(scored):
    folder, (image, text, scale, bias) = scored
    words = ["--model", str(folder / "model.safetensors"), "--data.path", str(folder / "pool.tar")]
    words += ["--data.caption-noise=0.5", "--contrastive.act=sigmoid_diagonal"]
    assert main(["score", *words, "--out", str(folder / "noisy.parquet"), "--json"]) == 0
    losses = pq.read_table(folder / "noisy.parquet")["loss"].to_numpy()
    clean = (
        -torch.nn.functional.logsigmoid(scale * (image * text).sum(dim=1) + bias).detach().numpy()
    )
    same = np.isclose(losses, clean, rtol=1e-4)
    assert 0.3 < same.mean() < 0.8
