"""Bad use gives one clear sentence at the first super-batch, or before."""

import copy
from types import SimpleNamespace

import pytest
import torch
from selector_parts import (
    Column,
    by_columns,
    column,
    cross_entropy,
    digits,
    made_up,
    selector,
    small,
    table,
)
from torch import nn
from torch.nn import functional

from superbatch.criterion import Criterion, bald, easy, learnability, rho_loss
from superbatch.errors import CheckpointError, ConfigError, SuperbatchError
from superbatch.measures import Measure
from superbatch.selector import Ramp, Schedule, SelectingLoader, Selector, per_example
from superbatch.tasks import Classification


def refusal(chooser, batch=None):
    """The sentence with which the first super-batch is refused."""
    with pytest.raises(SuperbatchError) as refused:
        chooser.select(next(digits(1)) if batch is None else batch)
    assert chooser.steps == 0
    return str(refused.value)


def pair():
    return next(digits(1))["image"], next(digits(1))["label"]


def test_a_mean_reduced_loss():
    def mean(model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1])

    said = refusal(selector(task=mean), pair())
    assert said.startswith("mean gave a single number for 2 rows")
    assert "reduction='none', or superbatch.per_example(loss)" in said


def test_losses_of_another_shape():
    said = refusal(selector(task=lambda model, batch: model(batch[0])), pair())
    assert "one loss for each of 2 rows" in said
    assert "torch.float32 of shape (2, 10)" in said
    assert "it gave str" in refusal(selector(task=lambda model, batch: "no"), pair())


def test_a_loss_module_as_task():
    with pytest.raises(ConfigError, match=r"superbatch\.per_example\(loss\)"):
        selector(task=nn.CrossEntropyLoss())


def test_soft_targets_without_saying_which_to_score():
    image, label = pair()
    soft = functional.one_hot(label, 10).float()
    said = refusal(selector(task=per_example(nn.CrossEntropyLoss())), (image, soft))
    assert "the labels are shares of classes, of shape (2, 10), as after mixup" in said
    assert "soft_targets='mixture'" in said


@pytest.mark.parametrize("criterion", [learnability, rho_loss])
def test_a_reference_that_is_the_model_it_is_compared_with(criterion):
    model = small(1)
    role = "online" if criterion is learnability else "learner"
    said = refusal(selector(reference=model, criterion=criterion, online=model, learner=model))
    assert f"the very weights of the {role} model" in said


def test_a_reference_that_equals_the_online_model():
    model = small(1)
    assert "the very weights" in refusal(selector(online=model, reference=copy.deepcopy(model)))


def test_a_reference_that_shares_layers_with_the_online_model():
    model = small(1)
    other = nn.Sequential(*model[:-1], nn.Linear(16, 10))
    assert "shares parameters" in refusal(selector(online=model, reference=other))


def test_a_model_elsewhere_than_the_batch():
    said = refusal(selector(reference=small(2).to("meta")))
    assert "batch['image'] is on cpu and the reference model on meta" in said
    assert "selector.to(device)" in said


def test_columns_of_unequal_length():
    image, label = pair()
    said = refusal(selector(), (image, label[:-1]))
    assert "batch[0] has 16 rows and batch[1] has 15" in said


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan")])
def test_a_ratio_that_is_none(ratio):
    with pytest.raises(ConfigError, match="0 or more and below 1"):
        selector(filter_ratio=ratio)


def test_a_ratio_that_keeps_nothing():
    said = refusal(selector(filter_ratio=0.99))
    assert "filter_ratio 0.99 keeps nothing of a super-batch of 16" in said
    assert "at most 0.937" in said  # 15/16 = 0.9375 keeps one
    assert len(selector(filter_ratio=0.937).select(next(digits(1)))["id"]) == 1


def test_a_ratio_that_scores_in_vain():
    said = refusal(selector(filter_ratio=0.01))
    assert "keeps all of a super-batch of 16, which then is scored in vain" in said


def test_a_ratio_that_would_come_to_keep_nothing():
    chooser = selector(filter_ratio=Ramp(0.0, 0.99), schedule=Schedule(steps=10))
    assert "filter_ratio 0.99 keeps nothing" in refusal(chooser)


def test_a_reference_with_other_outputs():
    said = refusal(selector(reference=small(2, classes=7)))
    assert "the online model has 10 and the reference model has 7 outputs" in said
    losses = per_example(nn.CrossEntropyLoss())
    said = refusal(selector(task=losses, reference=small(2, classes=12)), pair())
    assert "the reference model has 12 outputs" in said


def test_a_table_without_ids(tmp_path):
    losses = table(tmp_path / "t.parquet", range(4), [0.0, 1.0, 2.0, 3.0])
    said = refusal(by_columns(reference=losses), made_up([1.0] * 4, [0.0] * 4))
    assert "a table tells the loss of an example by its id, and the super-batch has none" in said
    assert "Selector(ids=...)" in said


def test_ids_that_are_none():
    said = refusal(selector(ids=lambda batch: ["a"] * 16))
    assert "one whole number for each of 16 rows" in said
    assert "it found list" in said
    assert "found 15 of them" in refusal(selector(ids=lambda batch: batch["id"][1:]))


def test_a_batch_that_does_not_say_what_is_what():
    batch = next(digits(1))
    said = refusal(selector(), tuple(batch.values()))
    assert "give Selector(read=...)" in said
    said = refusal(selector(), {"image": batch["image"], "kind": batch["label"]})
    assert "Classification looks for 'label' in a super-batch that has 'image', 'kind'" in said


def test_a_role_without_a_model():
    with pytest.raises(ConfigError, match="weighs the losses of the reference model and none was"):
        Selector(task=column, online=Column("online"), filter_ratio=0.5)
    with pytest.raises(ConfigError, match=r"Selector\(learner=\.\.\.\)"):
        by_columns(criterion=rho_loss)


def test_a_criterion_that_asks_for_more_than_losses():
    def entropy(task, model, batch):
        raise AssertionError

    asks = Criterion({"online": 1.0}, Measure("entropy", entropy))
    with pytest.raises(ConfigError, match="the entropy of each row, which needs a Task"):
        selector(criterion=asks, task=cross_entropy)
    selector(criterion=asks, task=Classification())


def test_a_measure_that_the_model_cannot_give():
    still = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    said = refusal(selector(criterion=bald, learner=still))
    assert "how far a model's answers spread under dropout and the model has none" in said
    assert len(selector(criterion=bald, learner=small(3)).select(next(digits(1)))["id"]) == 8


def test_an_online_model_that_cannot_learn():
    frozen = small(1).requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        selector(online=frozen)
    selector(online=frozen, criterion=easy)  # it does not learn there
    others = torch.optim.SGD(small(3).parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="holds no parameter of the online model"):
        selector(optimizer=others)


def test_weights_that_would_be_lost():
    chooser = selector(importance_exponent=0.5)
    assert "use selector.pick" in refusal(chooser)
    with pytest.raises(ConfigError, match="gives no weights"):
        SelectingLoader([], chooser)
    with pytest.raises(ConfigError, match="above 0 for importance weights"):
        selector(importance_exponent=0.5, temperature=0)


def test_a_fraction_of_nobody_knows_what():
    said = refusal(selector(schedule=Schedule(start=0.1)))
    assert "0.1 of all steps and nobody said how many there are" in said
    assert "SelectingLoader(..., epochs=...)" in said


def test_a_loader_without_length_where_one_is_needed():
    endless = iter([])
    with pytest.raises(ConfigError, match="list_iterator has no length, and fractions"):
        SelectingLoader(endless, selector(), epochs=2)
    assert list(SelectingLoader(endless, selector())) == []


def test_the_state_of_something_else():
    with pytest.raises(CheckpointError, match=r"not the state of a Selector: it has 0\.weight"):
        selector().load_state_dict(nn.Sequential(nn.Linear(1, 1)).state_dict())
    with pytest.raises(CheckpointError, match="seed 0 and this one has seed 3"):
        selector(seed=3).load_state_dict(selector().state_dict())
    with pytest.raises(CheckpointError, match="this one has an online model that learns and"):
        selector().load_state_dict(selector(criterion=easy).state_dict())
    with pytest.raises(CheckpointError, match="not the state of a SelectingLoader"):
        SelectingLoader([], selector()).load_state_dict(selector().state_dict())


def test_refusals_are_there_before_scores_choose():
    chooser = selector(reference=small(2, classes=7), schedule=Schedule(start=100))
    assert "7 outputs" in refusal(chooser)


def test_words_that_nobody_knows(unchecked):
    with pytest.raises(ConfigError, match="may be 'mixture' or 'largest'; it is 'both'"):
        per_example(nn.CrossEntropyLoss(), soft_targets="both")
    with pytest.raises(ConfigError, match=r"Schedule\.after may be 'uniform' or 'all'; it is 'no'"):
        Schedule(after="no")
    with pytest.raises(ConfigError, match="selection may be 'local' or 'global'; it is 'word'"):
        selector(selection="word")


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.tolist])
def test_labels_beside_tensors_that_are_none(kind):
    image, label = pair()
    said = refusal(selector(), (image, kind(label)))
    assert f"batch[1] of type {type(kind(label)).__name__}, which is not looked at" in said
    assert "torch.as_tensor makes a tensor of it" in said
    said = refusal(selector(task=per_example(nn.CrossEntropyLoss())), (image, kind(label)))
    assert f"the labels is a {type(kind(label)).__name__}" in said


class Answers(nn.Module):
    """A model whose answer is made into something else."""

    def __init__(self, seed, into):
        super().__init__()
        self.model, self.into = small(seed), into

    def forward(self, image):
        return self.into(self.model(image))


@pytest.mark.parametrize("into", [lambda logits: {"logits": logits}, lambda logits: (logits,)])
def test_a_model_that_answers_with_no_tensor(into):
    models = {"online": Answers(1, into), "reference": Answers(2, into)}
    kind = type(into(0)).__name__
    said = refusal(selector(**models))
    assert f"Answers answers with {kind} and not with a tensor of logits" in said
    said = refusal(selector(**models, task=per_example(nn.CrossEntropyLoss())), pair())
    assert f"the model's answer is a {kind}" in said


def test_a_model_whose_answer_has_logits_is_taken():
    def into(logits):
        return SimpleNamespace(logits=logits)

    plain = selector(temperature=0.0).select(next(digits(1)))["id"]
    models = {"online": Answers(1, into), "reference": Answers(2, into)}
    assert selector(temperature=0.0, **models).select(next(digits(1)))["id"].equal(plain)


@pytest.mark.parametrize("task", [Classification(), per_example(nn.CrossEntropyLoss())])
@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_width_are_taken(task, kind):
    image, label = pair()
    plain = selector(temperature=0.0, task=task).pick((image, label))
    narrow = selector(temperature=0.0, task=task)
    assert narrow.pick((image, label.to(kind))).index.equal(plain.index)
    assert narrow.learn((image, label.to(kind))) is not None


@pytest.mark.parametrize("wrong", [10, -1])
def test_a_label_of_no_class(wrong):
    batch = next(digits(1))
    batch["label"] = torch.where(torch.arange(16) == 9, wrong, batch["label"])
    said = refusal(selector(), batch)
    assert f"a label is {wrong} and the models have 10 outputs, so that labels are 0..9" in said


def test_values_that_are_names_or_classes_of_values(unchecked):
    with pytest.raises(ConfigError, match=r"task is the class Classification; .* Classification"):
        selector(task=Classification)
    with pytest.raises(ConfigError, match=r"criterion is 'learnability' and a Criterion is wanted"):
        selector(criterion="learnability")


def test_a_state_that_is_not_whole():
    state = selector().state_dict()
    del state["seen"], state["watch"]
    with pytest.raises(CheckpointError, match="the state of a Selector lacks seen, watch; give"):
        selector().load_state_dict(state)
    with pytest.raises(CheckpointError, match="lacks seed, steps, seen, kept"):
        selector().load_state_dict({"kind": state["kind"]})


def test_times_that_end_before_they_begin():
    with pytest.raises(ConfigError, match=r"Ramp\(begin=5, end=2\) ends before it begins; give"):
        Ramp(0.0, 0.5, begin=5, end=2)
    with pytest.raises(ConfigError, match=r"Schedule\(start=0.9, end=0.1\) ends before it"):
        Schedule(start=0.9, end=0.1)
    with pytest.raises(ConfigError, match=r"start=60, end=0.5\) ends before .*, of 100 steps"):
        Schedule(start=60, end=0.5, steps=100)
    Schedule(start=60, end=0.5)  # of how many steps is said later
    Schedule(start=40, end=0.5, steps=100)
    Ramp(0.0, 0.5, begin=2, end=2)
