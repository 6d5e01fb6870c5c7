"""open_clip's own training epoch, with selection in its data."""

from dataclasses import dataclass
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip_train.train import train_one_epoch
from small_parts import digits, example, learned, same_state, same_weights, selector
from torch.utils.data import DataLoader, TensorDataset

from superbatch.errors import ConfigError
from superbatch.integrations.open_clip import selecting
from superbatch.tasks import Contrastive


def clip(seed, loss, **settings):
    """Two towers 16 wide."""
    torch.manual_seed(seed)
    bias = {"init_logit_bias": -5.0} if loss == "sigmoid" else {}
    image = {"image_size": 8, "patch_size": 4, "head_width": 8}
    text = {"context_length": 6, "vocab_size": 20, "heads": 2}
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg=open_clip.CLIPVisionCfg(layers=1, width=16, **image),
        text_cfg=open_clip.CLIPTextCfg(layers=1, width=16, **text),
        **bias,
        **settings,
    )


@dataclass
class Data:
    """As ``open_clip_train.data.DataInfo``, which wants WebDataset to be imported."""

    dataloader: DataLoader
    epochs: tuple = ()

    def set_epoch(self, epoch):
        self.epochs = (*self.epochs, epoch)


def pairs():
    """48 digits with captions: start, their number in words of one token, end, padding."""
    images, labels, _ = digits(48).tensors
    texts = torch.zeros(48, 6, dtype=torch.int64)
    texts[:, 0], texts[:, 1], texts[:, 2] = 18, labels + 1, 19
    loader = DataLoader(TensorDataset(images.expand(-1, 3, -1, -1), texts), batch_size=16)
    loader.num_batches, loader.num_samples = 3, 48
    return Data(loader)


class Run:
    """What open_clip's main does around its epochs."""

    def __init__(self, loss="softmax", filter_ratio=None, accum_freq=1):
        self.args = SimpleNamespace(
            device="cpu", precision="fp32", batch_size=16, accum_freq=accum_freq,
            skip_scheduler=True, grad_clip_norm=1.0, distill=False, horovod=False, wandb=False,
            log_every_n_steps=1, log_local=False, rank=0, local_rank=0, world_size=1,
        )  # fmt: skip
        self.model = clip(0, loss, output_dict=True)
        sigmoid = loss == "sigmoid"
        self.loss = open_clip.loss.SigLipLoss() if sigmoid else open_clip.ClipLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.data = {"train": pairs()}
        if filter_ratio is not None:
            models = {"online": clip(1, loss), "reference": clip(2, loss)}
            self.selector = selector(filter_ratio, Contrastive(loss, act="dot"), **models)
            self.data = selecting(self.data, self.selector, self.args.device)
        self.rows, self.losses = [], []

    def epoch(self, number):
        def observed(**said):
            self.rows.append(len(said["image_features"]))
            found = self.loss(**said)
            self.losses.append(found["contrastive_loss"].item())
            return found

        others = (None, None, None, self.args)
        train_one_epoch(self.model, self.data, observed, number, self.optimizer, *others)

    def checkpoint(self):
        """What main saves, and the one line more."""
        return {
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "selector": self.selector.state_dict(),
        }

    def resume(self, checkpoint):
        self.model.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.selector.load_state_dict(checkpoint["selector"])


@pytest.mark.parametrize(("loss", "accum_freq"), [("softmax", 1), ("sigmoid", 1), ("softmax", 3)])
def test_all_kept_is_the_untouched_epoch(loss, accum_freq):
    plain, kept = Run(loss, None, accum_freq), Run(loss, 0.0, accum_freq)
    plain.epoch(0)
    kept.epoch(0)
    assert kept.losses == plain.losses
    assert same_weights(kept.model, plain.model)


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def half(request, tmp_path_factory):
    """Two epochs with half of each super-batch kept, and what was saved after the first."""
    run = Run(request.param, 0.5)
    file = tmp_path_factory.mktemp("half") / "epoch_1.pt"
    run.epoch(0)
    torch.save(run.checkpoint(), file)
    run.epoch(1)
    return request.param, run, file


def test_half_kept_is_counted(half):
    _, run, _ = half
    assert run.rows == [8] * 6
    assert (run.selector.metrics["seen"], run.selector.metrics["kept"]) == (96, 48)
    loader = run.data["train"].dataloader
    assert (loader.num_batches, loader.num_samples, len(loader)) == (3, 24, 3)
    assert learned(run.selector) == 6
    assert run.data["train"].epochs == (0, 1)


def test_resumes_to_the_same_picks_and_weights(half):
    loss, whole, file = half
    run = Run(loss, 0.5)
    run.resume(torch.load(file, weights_only=True))
    run.epoch(1)
    assert run.losses == whole.losses[3:]
    assert same_weights(run.model, whole.model)
    assert same_state(run.selector.state_dict(), whole.selector.state_dict())
    assert run.selector.metrics["seen"] == 96


def test_progress_counts_the_kept_pairs(caplog):
    with caplog.at_level("INFO"):
        Run("softmax", 0.5).epoch(0)
    last = [record.message for record in caplog.records if "Train Epoch" in record.message][-1]
    assert "[24/24 (100%)]" in last


def test_no_training_data_is_said():
    with pytest.raises(ConfigError, match=r"no training data .* \['val'\]"):
        selecting({"val": pairs()}, selector(0.5), "cpu")


def test_the_example_runs():
    metrics = example("open_clip_epoch")()
    assert (metrics["seen"], metrics["kept"]) == (2560, 1280)
