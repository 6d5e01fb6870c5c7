"""Lightning's own trainer, with selection in it."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from small_parts import (
    classifier,
    digits,
    example,
    learned,
    losses,
    same_state,
    same_weights,
    selector,
)
from torch.utils.data import DataLoader

from superbatch.errors import ConfigError
from superbatch.integrations.lightning import SelectionCallback


pytestmark = [
    # Its advice: more workers than these few rows need, a validation set, ...
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    # It walks batches by a class of torch's that is on its way out.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
]


class Digits(pl.LightningModule):
    """What a user has: it knows nothing of selection."""

    def __init__(self, dropout):
        super().__init__()
        self.model = classifier(0, dropout)
        self.losses, self.ids, self.validated = [], [], []

    def training_step(self, batch, batch_idx):
        loss = losses(self.model, batch).mean()
        self.losses.append(loss.item())
        self.ids.append(batch[2].tolist())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append(len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Loader:
    """Epochs of three super-batches of 16; goes on where it stood, as torchdata's loaders do."""

    def __init__(self, rows=None):
        self.rows = rows or list(torch.arange(48).split(16)) * 2
        self.given = 0

    def __len__(self):
        return 3

    def __iter__(self):
        for _ in range(3 - self.given % 3):
            self.given += 1
            yield [field[self.rows[self.given - 1]] for field in digits(48).tensors]

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


def fit(folder, *callbacks, dropout=0.0, module=None, loader=None, resume=None, **settings):
    torch.manual_seed(7)
    module = module or Digits(dropout)
    trainer = pl.Trainer(
        **{"max_epochs": 2, "log_every_n_steps": 1} | settings,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=CSVLogger(folder),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
    )
    validation = DataLoader(digits(10), batch_size=10)
    trainer.fit(module, loader or Loader(), validation, ckpt_path=resume)
    return module, trainer


def every_step(folder):
    return ModelCheckpoint(
        folder / "kept",
        "{step}",
        every_n_train_steps=1,
        save_top_k=-1,
        save_on_train_epoch_end=False,
    )


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Half of each super-batch kept, a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("half")
    callback = SelectionCallback(selector(0.5))
    module, trainer = fit(folder, callback, every_step(folder))
    return folder, module, trainer, callback.selector


def test_all_kept_is_the_untouched_trainer(tmp_path):
    plain, _ = fit(tmp_path / "plain", dropout=0.5)
    kept, _ = fit(tmp_path / "kept", SelectionCallback(selector(0.0)), dropout=0.5)
    assert kept.losses == plain.losses
    assert same_weights(kept.model, plain.model)
    assert kept.ids[0] == list(range(16))


def test_half_kept_is_counted_and_logged(half):
    folder, module, trainer, chooser = half
    assert [len(ids) for ids in module.ids] == [8] * 6
    assert all(set(ids) <= set(range(16)) for ids in module.ids[::3])
    assert module.validated == [10] * len(module.validated)  # also before training
    assert trainer.logged_metrics["selection/seen"] == 96
    assert trainer.logged_metrics["selection/kept"] == 48
    with (folder / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["selection/seen"]) for row in rows] == [16, 32, 48, 64, 80, 96]
    assert [float(row["loss"]) for row in rows] == pytest.approx(module.losses)
    assert learned(chooser) == 6


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # the run goes on in another folder
@pytest.mark.parametrize("step", [2, 3])
def test_resumes_to_the_same_picks_and_weights(half, tmp_path, step):
    folder, whole, _, chooser = half
    callback = SelectionCallback(selector(0.5))
    stood = folder / "kept" / f"step={step}.ckpt"
    module, trainer = fit(tmp_path, callback, every_step(tmp_path), resume=stood)
    assert trainer.global_step == 6
    assert module.ids == whole.ids[step:]
    assert same_weights(module.model, whole.model)
    assert same_state(callback.selector.state_dict(), chooser.state_dict())
    assert trainer.logged_metrics["selection/seen"] == 96


def test_learning_from_the_kept_rows_is_all_that_changes(tmp_path):
    """Dropout and all: the untouched trainer, given just those rows, has the very same losses."""
    chosen, _ = fit(tmp_path / "chosen", SelectionCallback(selector(0.5)), dropout=0.5)
    given, _ = fit(tmp_path / "given", dropout=0.5, loader=Loader(chosen.ids))
    assert given.losses == chosen.losses
    assert same_weights(given.model, chosen.model)


class OnDevice(pl.LightningDataModule):
    """Augments on the device, as data modules may."""

    def train_dataloader(self):
        return DataLoader(digits(16), batch_size=8)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return (-batch[0], *batch[1:])


def test_a_data_module_keeps_its_own_hook(tmp_path):
    data = OnDevice()
    module = Digits(0.0)
    seen = []
    module.training_step = lambda batch, batch_idx: (
        seen.append(batch) or losses(module.model, batch).mean()
    )
    callback = SelectionCallback(selector(0.5))
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, callbacks=[callback],
        default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, data)
    images, _, ids = seen[0]
    assert len(images) == 4
    assert torch.equal(images, -digits(16).tensors[0][ids])
    assert "on_after_batch_transfer" not in vars(data) | vars(module)  # as it was before


@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument")  # it is experimental
def test_a_step_that_fetches_for_itself_is_refused(tmp_path):
    class Fetches(Digits):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return losses(self.model, batch).mean()

    module = Fetches(0.0)
    with pytest.raises(ConfigError, match="takes dataloader_iter"):
        fit(tmp_path, SelectionCallback(selector(0.5)), module=module)
    assert "on_after_batch_transfer" not in vars(module)


def test_the_example_runs(tmp_path):
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False}
    metrics = example("lightning_callback")(default_root_dir=tmp_path, accelerator="cpu", **quiet)
    assert (metrics["seen"], metrics["kept"]) == (2514, 1258)
