import json

import numpy as np
import pytest
import torch
from torch import nn
from two_towers import LinearTowers

from superbatch.errors import DataError
from superbatch.evaluation import (
    Prompts,
    evaluate_zero_shot,
    labelled_batches,
    read_prompts,
    zero_shot_head,
)
from superbatch.evaluation.zero_shot import filled
from superbatch.sources import open_examples


NAMES = ["tench", "great white shark", "a {} of {c}"]
TEMPLATES = ["a photo of a {}.", "{c}", "the {c}, not the {}."]


@pytest.fixture(scope="module")
def clip():
    open_clip = pytest.importorskip("open_clip", reason="needs the extra [clip]")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = {"layers": 1, "width": 32}
        model = open_clip.CLIP(
            16,
            vision_cfg=tower | {"image_size": 16, "patch_size": 8, "head_width": 16},
            text_cfg=tower | {"context_length": 16, "vocab_size": 49408, "heads": 2},
        )
    return model, open_clip.SimpleTokenizer(context_length=16)


def test_templates_take_braces_with_and_without_c():
    assert filled("a {} and {c}", "cat") == "a cat and cat"
    # What a name contains is text.
    assert filled("one {}", "a {} of {c}") == "one a {} of {c}"
    assert filled("one {}", r"back\1slash") == r"one back\1slash"
    assert filled("{x} {}", "cat") == "{x} cat"


@pytest.mark.parametrize("templates", [TEMPLATES[:1], ["a photo of a {}.", "{}", "many {}"]])
def test_the_head_is_open_clips(clip, templates):
    from open_clip import build_zero_shot_classifier

    names = [f"thing number {index}" for index in range(23)]
    theirs = build_zero_shot_classifier(clip[0].eval(), clip[1], names, templates)
    clip[0].train()
    ours = zero_shot_head(*clip, names, templates)
    assert clip[0].training
    assert ours.shape == (23, 16)
    torch.testing.assert_close(ours, theirs.T, rtol=0, atol=1e-5)


def test_classes_in_parts_are_the_same_head(clip, monkeypatch):
    whole = zero_shot_head(*clip, NAMES, TEMPLATES)
    for texts in (1, 4, 7):
        monkeypatch.setattr("superbatch.evaluation.zero_shot._TEXTS_AT_ONCE", texts)
        part = zero_shot_head(*clip, NAMES, TEMPLATES)
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-6)


def test_an_ensemble_by_hand():
    class Words(nn.Module):
        """A text's embedding is the row of a table that its one token names."""

        def encode_text(self, text):
            table = torch.tensor([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
            return table[text[:, 0]]

    def tokens(texts):
        return torch.tensor([[("ax", "bx", "ay").index(text)] for text in texts])

    # Directions (1, 0) and (0, 1), whatever their lengths: between them. And one alone.
    head = zero_shot_head(Words(), tokens, ["x"], ["a{}", "b{}"])
    torch.testing.assert_close(head, torch.tensor([[0.5**0.5, 0.5**0.5]]))
    head = zero_shot_head(Words(), tokens, ["x", "y"], ["a{}"])
    torch.testing.assert_close(head, torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]]))


class Colours(LinearTowers):
    """An image's embedding is its mean colour."""

    def encode_image(self, image):
        return image.mean(dim=(2, 3))


def labelled(colours, labels):
    image = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2)
    return {"image": image, "label": torch.tensor(labels)}


def test_accuracy_by_hand():
    head = torch.eye(3)
    red, green, blue, yellow = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 200, 0]
    batches = [labelled([red, green], [0, 1]), labelled([blue, yellow, yellow], [2, 0, 1])]
    result = evaluate_zero_shot(Colours(), head, batches)
    assert result.examples == 5
    # Red, green, blue and one of the two yellows, which are more red than green.
    assert result.metrics() == {"val/zero_shot_top1": 0.8, "val/zero_shot_top5": 1.0}
    assert result.per_class == (1.0, 0.5, 1.0)


def test_bf16_leaves_cosines_exact():
    # Two classes that differ by less than bf16 can tell: always the right one.
    head = torch.nn.functional.normalize(torch.tensor([[1.0, 1e-3, 0], [1.0, -1e-3, 0]]), dim=1)
    assert torch.equal(*head.bfloat16()[:, [0]])
    above, below = (
        labelled([[255, 140, 128]] * 3, [0] * 3),
        labelled([[255, 115, 128]] * 3, [1] * 3),
    )
    assert evaluate_zero_shot(Colours(), head, [above, below], bf16=True).top1 == 1.0


def test_grey_images_are_shown_in_colour(clip):
    digits = open_examples("digits", image_size=16)
    assert digits.image_shape[0] == 1
    head = zero_shot_head(*clip, list(digits.class_names), ["the digit {}"])
    batches = labelled_batches(digits, np.arange(300, dtype=np.int64), batch_size=128)
    result = evaluate_zero_shot(clip[0], head, batches)
    assert result.examples == 300
    # A model that has learned nothing: nearly always one class of ten.
    assert 0 <= result.top1 < 0.4


def test_the_prompts_of_a_file(tmp_path):
    path = tmp_path / "prompts.json"
    lists = {
        "imagenet_wnids": ["n1", "n2"],
        "imagenet_classnames": ["tench", "goldfish"],
        "openai_templates_80": ["a photo of a {}."],
        "simple_templates_7": ["itap of a {c}."],
    }
    path.write_text(json.dumps(lists))
    assert read_prompts(path) == Prompts(("tench", "goldfish"), ("a photo of a {}.",))
    simple = read_prompts(path, templates="simple_templates_7")
    assert simple.templates == ("itap of a {c}.",)
    path.write_text('{"templates": ["a {}", "{}"]}')
    assert read_prompts(path) == Prompts((), ("a {}", "{}"))


def test_the_prompts_of_imagenet(real_data):
    prompts = read_prompts(real_data / "zeroshot" / "imagenet_zeroshot.json")
    assert (len(prompts.names), len(prompts.templates)) == (1000, 80)
    assert filled(prompts.templates[0], prompts.names[0]) == "a bad photo of a tench."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ('{"names": ["a"]}', "no list 'templates' of sentences; it has names"),
        ('{"names": "abc", "templates": ["{}"]}', "'names' must be a list"),
        ('{"names": [], "templates": ["{}"]}', "'names' must be a list of one text or more"),
        ('{"names": ["a"], "templates": [1]}', "'templates' must be a list"),
        ('{"names": ["a"], "templates": ["a photo"]}', "'a photo' has no {}"),
    ],
)
def test_prompts_of_another_form_are_refused(tmp_path, text, message):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(DataError) as refused:
        read_prompts(path)
    assert message in str(refused.value)


def test_missing_prompts_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the prompts of .*no\.json: No such file"):
        read_prompts(tmp_path / "no.json")
    path = tmp_path / "prompts.json"
    path.write_text('{"names": ["a"], "templates": ["{}"]}')
    with pytest.raises(DataError, match="no list 'mine' of sentences; it has names, templates"):
        read_prompts(path, templates="mine")


def test_names_are_fitted_to_the_data():
    prompts = Prompts(("cat", "dog", "bird"), ("{}",))
    assert prompts.for_classes(["bird", "cat"]).names == ("bird", "cat")
    assert prompts.for_classes(["0", "1", "2"]).names == ("cat", "dog", "bird")
    assert Prompts((), ("{}",)).for_classes(["ox", "fly"]).names == ("ox", "fly")
    with pytest.raises(DataError, match=r"3 classes and the data has 2, 1 of which .*'horse'"):
        prompts.for_classes(["cat", "horse"])
