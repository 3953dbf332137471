"""Configurations of backbones: what no model can be made of is refused before one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unitok.recommender import gpt2_config


@pytest.mark.parametrize(
    ("argument", "error", "value"),
    [
        ("width", TypeError, "64"),
        ("layers", ValueError, 0),
        ("heads", ValueError, 3),
        ("dropout", ValueError, 1.0),
        ("attention_dropout", TypeError, None),
    ],
)
def test_a_setting_out_of_its_range_is_refused(
    argument: str, error: Any, value: Any, refuses: Callable[..., Any]
) -> None:
    with refuses("gpt2_config", argument, error):
        gpt2_config(**{argument: value})
