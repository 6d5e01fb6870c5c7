"""The same callback for those who import Lightning by its older name."""

import pytest
import pytorch_lightning as pl
import torch
from small_parts import classifier, digits, losses, selector
from torch.utils.data import DataLoader

from superbatch.integrations.pytorch_lightning import SelectionCallback


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = classifier(0)
        self.rows = []

    def training_step(self, batch):
        self.rows.append(len(batch[0]))
        return losses(self.model, batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# Its advice (more workers, ...), and a class of torch's that is on its way out.
@pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
def test_half_is_kept_and_the_state_is_in_the_checkpoint(tmp_path):
    module, callback = Digits(), SelectionCallback(selector(0.5))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=tmp_path, **quiet
    )
    trainer.fit(module, DataLoader(digits(48), batch_size=16))
    assert module.rows == [8, 8, 8]
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]
    assert saved["SelectionCallback"]["kept"] == 24
