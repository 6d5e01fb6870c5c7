"""Selection in open_clip's training epoch. python examples/open_clip_epoch.py."""

from types import SimpleNamespace

import open_clip
import torch
from open_clip_train.train import train_one_epoch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from superbatch import Selector
from superbatch.integrations.open_clip import selecting
from superbatch.tasks import Contrastive


ARGS = SimpleNamespace(
    device="cpu", precision="fp32", batch_size=64, accum_freq=1, skip_scheduler=True, wandb=False,
    grad_clip_norm=1.0, distill=False, horovod=False, log_every_n_steps=10, log_local=False,
    rank=0, local_rank=0, world_size=1,
)  # fmt: skip
"""What open_clip's command line would say."""


def clip(width: int, **settings) -> open_clip.CLIP:
    """Two towers for digits of 8 x 8 and captions of three tokens."""
    image = open_clip.CLIPVisionCfg(layers=1, width=width, head_width=8, patch_size=4, image_size=8)
    text = open_clip.CLIPTextCfg(context_length=3, vocab_size=12, width=width, heads=2, layers=1)
    return open_clip.CLIP(16, image, text, **settings)


def data(images: torch.Tensor, texts: torch.Tensor) -> dict:
    """As open_clip_train.data.get_data gives it."""
    loader = DataLoader(TensorDataset(images, texts), batch_size=64, shuffle=True, drop_last=True)
    loader.num_batches, loader.num_samples = len(loader), 64 * len(loader)
    return {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}


def fit(model: open_clip.CLIP, pairs: dict) -> None:
    """Two epochs, as open_clip_train.main trains."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(2):
        train_one_epoch(
            model, pairs, open_clip.ClipLoss(), epoch, optimizer, None, None, None, ARGS
        )


def main() -> dict:
    """Train a reference on other pairs, then a learner on chosen ones; what was chosen."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 8 - 1
    start, end = torch.zeros(len(images), 1), torch.full((len(images), 1), 11)
    texts = torch.cat([start, torch.tensor(found.target)[:, None] + 1, end], dim=1).long()

    reference, online = clip(16, output_dict=True), clip(16)
    fit(reference, data(images[:500], texts[:500]))
    reference.output_dict = False  # the loop wants mappings, the task wants tuples
    selector = Selector(
        online=online, reference=reference, task=Contrastive("softmax", score_scale=10.0),
        filter_ratio=0.5,
    )  # fmt: skip
    pairs = selecting(data(images[500:], texts[500:]), selector, ARGS.device)
    fit(clip(64, output_dict=True), pairs)
    print(selector.metrics)
    return selector.metrics


if __name__ == "__main__":
    main()
