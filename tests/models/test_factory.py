# SPDX-License-Identifier: Apache-2.0
"""What the file of a factory says is part of the model: other code is another network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from splitguard.errors import BadSetting
from splitguard.models import make_model, model_spec


def test_weights_are_a_path() -> None:
    with pytest.raises(BadSetting, match=r"a path to a \.safetensors file; got 3"):
        model_spec({"lenet": {"weights": 3}})


def test_the_code_of_a_factory_is_part_of_its_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "factory_in_a_file.py"
    file.write_text("from torch import nn\n\n\ndef make(classes):\n    return nn.Linear(5, classes)\n")
    spec = model_spec({"factory": "factory_in_a_file:make"})
    assert re.fullmatch("[0-9a-f]{16}", spec["code"])
    assert model_spec(spec) == spec
    assert make_model(spec, input_shape=(5,), classes=3, seed=0)(torch.zeros(2, 5)).shape == (2, 3)
    with pytest.raises(BadSetting, match="it has changed"):
        model_spec({**spec, "code": "0" * 16})
    file.write_text(file.read_text().replace("Linear", "LazyLinear"))
    with pytest.raises(BadSetting, match=r"factory_in_a_file\.py has changed since .* start Python again"):
        model_spec({"factory": "factory_in_a_file:make"})
