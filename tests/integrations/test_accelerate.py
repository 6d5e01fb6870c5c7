"""A plain loop under Accelerate, with selection in it."""

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from small_parts import classifier, digits, example, losses, same_state, same_weights, selector
from torch.utils.data import DataLoader


class Run:
    """Epochs of three shuffled super-batches of 16."""

    def __init__(self, filter_ratio=None, accumulate=1, dropout=0.0):
        self.accelerator = Accelerator(
            cpu=True,
            gradient_accumulation_steps=accumulate,
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=4),
        )
        self.model = classifier(0, dropout)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        loader = DataLoader(digits(48), batch_size=16, shuffle=True)
        parts = self.accelerator.prepare(self.model, optimizer, loader)
        self.prepared, self.optimizer, self.loader = parts
        self.selector = None
        if filter_ratio is not None:
            self.selector = selector(filter_ratio)
            self.selector.to(self.accelerator.device)
            self.accelerator.register_for_checkpointing(self.selector)
        self.losses, self.ids, self.updates = [], [], 0
        torch.manual_seed(6)

    def epoch(self, number, *, skip=0, save_after=None):
        self.loader.set_epoch(number)
        loader = skip_first_batches(self.loader, skip) if skip else self.loader
        for step, super_batch in enumerate(loader):
            batch = self.selector.select(super_batch) if self.selector else super_batch
            with self.accelerator.accumulate(self.prepared):
                loss = losses(self.prepared, batch).mean()
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.updates += self.accelerator.sync_gradients
            if self.selector:
                self.selector.learn(batch)
            self.losses.append(loss.item())
            self.ids.append(batch[2].tolist())
            if save_after is not None and step + 1 == save_after[0]:
                self.accelerator.save_state(str(save_after[1]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_kept_is_the_untouched_loop(accumulate):
    plain = Run(None, accumulate, dropout=0.5)
    plain.epoch(0)
    kept = Run(0.0, accumulate, dropout=0.5)
    kept.epoch(0)
    assert kept.losses == plain.losses
    assert kept.ids == plain.ids
    assert kept.updates == plain.updates
    assert same_weights(kept.model, plain.model)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Two epochs, half of each super-batch kept, saved in the middle of the first."""
    run = Run(0.5)
    folder = tmp_path_factory.mktemp("half") / "state"
    run.epoch(0, save_after=(2, folder))
    run.epoch(1)
    return run, folder


def test_half_kept_is_counted(half):
    run, _ = half
    assert [len(ids) for ids in run.ids] == [8] * 6
    assert len({i for ids in run.ids[:3] for i in ids}) == 24  # of one epoch, none twice
    assert (run.selector.metrics["seen"], run.selector.metrics["kept"]) == (96, 48)


def test_resumes_to_the_same_picks_and_weights(half):
    whole, folder = half
    run = Run(0.5)
    run.accelerator.load_state(str(folder))
    run.epoch(0, skip=2)
    run.epoch(1)
    assert run.ids == whole.ids[2:]
    assert run.losses == whole.losses[2:]
    assert same_weights(run.model, whole.model)
    assert same_state(run.selector.state_dict(), whole.selector.state_dict())
    assert run.selector.metrics["seen"] == 96


def test_the_example_runs(tmp_path):
    metrics = example("accelerate_loop")(str(tmp_path))
    assert (metrics["seen"], metrics["kept"]) == (2514, 1258)
