"""An adapter whose package is not installed says which extra to install."""

import importlib
import sys

import pytest

from superbatch.errors import ConfigError


@pytest.mark.parametrize(
    ("adapter", "absent", "extra"),
    [
        ("lightning", "lightning.pytorch.callbacks", "lightning"),
        ("pytorch_lightning", "pytorch_lightning.callbacks", "lightning"),
        ("huggingface", "transformers", "huggingface"),
        ("timm", "timm.task", "timm"),
    ],
)
def test_the_extra_is_named(monkeypatch, adapter, absent, extra):
    for part in absent.split("."):
        monkeypatch.delitem(sys.modules, part, raising=False)
    monkeypatch.setitem(sys.modules, absent.split(".")[0], None)
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.delitem(sys.modules, f"superbatch.integrations.{adapter}", raising=False)
    with pytest.raises(ConfigError, match=rf"install superbatch\[{extra}\]"):
        importlib.import_module(f"superbatch.integrations.{adapter}")
