"""timm's own task, optimiser, schedule and checkpoints, with selection in them."""

import pytest
import timm.optim
import timm.scheduler
import timm.task
import timm.utils
import torch
from small_parts import classifier, digits, example, learned, same_state, same_weights, selector
from timm.models import VisionTransformer
from torch.utils.data import DataLoader

from superbatch.errors import CheckpointError
from superbatch.integrations.timm import SelectingTask


def vit(dropout=0.0):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=1, num_heads=2,
        drop_rate=dropout,
    )  # fmt: skip


class Run:
    """What timm's train script does around its parts."""

    def __init__(self, folder, chooser=None, dropout=0.0):
        self.task = timm.task.ClassificationTask(vit(dropout), torch.nn.CrossEntropyLoss())
        self.optimizer = timm.optim.create_optimizer_v2(
            self.task.get_trainable_module(), opt="adamw", lr=1e-2
        )
        if chooser is not None:
            self.task = SelectingTask(self.task, chooser)
        self.task.setup_ema(decay=0.5)
        self.scheduler, _ = timm.scheduler.create_scheduler_v2(
            self.optimizer, sched="cosine", num_epochs=2, updates_per_epoch=3
        )
        self.saver = timm.utils.CheckpointSaver(
            None,
            self.optimizer,
            task=self.task,
            checkpoint_dir=str(folder),
            recovery_dir=str(folder),
        )
        self.losses, self.ids = [], []

    def epoch(self, number):
        torch.manual_seed(number)
        self.task.train()
        for step, (images, labels, ids) in enumerate(DataLoader(digits(48), batch_size=16)):
            result = self.task(images, labels)
            self.optimizer.zero_grad()
            result["loss"].backward()
            timm.utils.dispatch_clip_grad(self.task.get_clip_parameters(), 1.0)
            self.optimizer.step()
            self.task.update_ema(step=step)
            self.scheduler.step_update(number * 3 + step)
            self.losses.append(result["loss"].item())
            self.ids.append((len(result["output"]), result.get("target", labels).tolist(), ids))
        self.saver.save_checkpoint(number)

    def resume(self, file):
        return timm.task.resume_task_checkpoint(self.task, str(file), self.optimizer)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Two epochs with half of each super-batch kept."""
    folder = tmp_path_factory.mktemp("half")
    run = Run(folder, selector(0.5))
    run.epoch(0)
    run.epoch(1)
    return folder, run


def test_all_kept_is_the_untouched_task(tmp_path):
    plain, kept = Run(tmp_path, dropout=0.5), Run(tmp_path, selector(0.0), dropout=0.5)
    plain.epoch(0)
    kept.epoch(0)
    assert kept.losses == plain.losses
    assert same_weights(kept.task.get_eval_model(), plain.task.get_eval_model())
    assert same_weights(kept.task.get_eval_model(ema=True), plain.task.get_eval_model(ema=True))


def test_half_kept_is_counted(half):
    _, run = half
    assert [count for count, _, _ in run.ids] == [8] * 6
    assert all(len(target) == 8 for _, target, _ in run.ids)
    assert (run.task.selector.metrics["seen"], run.task.selector.metrics["kept"]) == (96, 48)
    assert learned(run.task.selector) == 6


def test_evaluation_sees_every_row(half):
    _, run = half
    run.task.eval()
    images, labels, _ = digits(10).tensors
    assert len(run.task(images, labels)["output"]) == 10
    assert run.task.selector.metrics["seen"] == 96


def test_resumes_to_the_same_picks_and_weights(half, tmp_path):
    folder, whole = half
    run = Run(tmp_path, selector(0.5))
    assert run.resume(folder / "checkpoint-0.pth.tar") == 1
    run.epoch(1)
    assert run.losses == whole.losses[3:]
    assert same_weights(run.task.get_eval_model(), whole.task.get_eval_model())
    assert same_state(run.task.selector.state_dict(), whole.task.selector.state_dict())
    assert run.task.selector.metrics["seen"] == 96


def test_its_checkpoints_are_timms(half):
    """Another program may load the weights without knowing of selection."""
    folder, whole = half
    model = vit()
    timm.models.load_checkpoint(model, str(folder / "checkpoint-1.pth.tar"), use_ema=False)
    assert same_weights(model, whole.task.get_eval_model())
    timm.task.load_task_ema_checkpoint(whole.task, str(folder / "checkpoint-1.pth.tar"))


def test_a_checkpoint_without_selection_is_refused(tmp_path):
    plain = Run(tmp_path)
    plain.epoch(0)
    with pytest.raises(CheckpointError, match="no state of a selector"):
        Run(tmp_path, selector(0.5)).resume(tmp_path / "checkpoint-0.pth.tar")


def test_the_rest_is_the_tasks(tmp_path):
    task = SelectingTask(timm.task.ClassificationTask(classifier(0)), selector(0.5))
    assert task.prepare_distributed is not task.task.prepare_distributed
    assert task.get_trainable_module() is task.task.trainable_module
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = task.no_such_thing


def test_the_example_runs(tmp_path):
    metrics = example("timm_task")(str(tmp_path))
    assert (metrics["seen"], metrics["kept"]) == (2514, 1258)
