"""Settings: what doesn't fit is refused when they are made, with its name, and they survive JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from unitok import LossWeights, UniTokConfig
from unitok.config import PRESETS


def test_presets_are_those_of_the_equations() -> None:
    assert set(PRESETS) == {"paper", "normalised", "shared_first", "public_code"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preset", "papre"),
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", "3"),
        ("epochs", True),
        ("batch_size", 0),
        ("num_levels", 0),
        ("codebook_size", 0),
        ("codebook_size", None),
        ("codebook_dim", -1),
        ("top_k", 0),
        ("warmup_epochs", -1),
        ("min_domain_rows", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", None),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("gradient_clip", -1.0),
        ("weight_decay", -1e-9),
        ("weight_decay", math.nan),
        ("encoder_widths", (64, 0)),
        ("encoder_widths", 64),
        ("validation_fraction", 1.0),
        ("validation_fraction", -0.1),
        ("calibration", "median"),
        ("calibration", None),
        ("bandwidth", "mean"),
        ("bandwidth", 0.0),
        ("bandwidth", None),
        ("num_experts", -1),
        ("num_experts", 1.5),
        ("weights", None),
        ("weights", {"commitmint": 1.0}),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: Any, refuses) -> None:
    with refuses("UniTokConfig", name):
        UniTokConfig(**{name: value})


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1"])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(LossWeights)])
def test_a_loss_weight_is_a_number_and_not_negative(name: str, value: Any, refuses) -> None:
    with refuses("LossWeights", name):
        LossWeights(**{name: value})
    with refuses("UniTokConfig", f"weights.{name}"):
        UniTokConfig(weights={name: value})  # type: ignore[arg-type]
    with refuses("UniTokConfig.from_dict", f"weights.{name}"):
        UniTokConfig.from_dict({"weights": {name: value}})


def test_more_slots_than_experts_are_refused(refuses) -> None:
    with refuses("UniTokConfig", "top_k"):
        UniTokConfig(num_experts=2, top_k=3)
    with refuses("UniTokConfig", "top_k"):
        UniTokConfig(num_experts=0, top_k=2)
    assert UniTokConfig(num_experts=0, top_k=1).num_experts == 0


def test_settings_survive_json() -> None:
    config = UniTokConfig(preset="paper", encoder_widths=(96, 48), weights=LossWeights(calibration=0.5), bandwidth=2.0)
    assert UniTokConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert UniTokConfig(encoder_widths=[96, 48]).encoder_widths == (96, 48)
    assert UniTokConfig(weights={"calibration": 0.5}).weights == LossWeights(calibration=0.5)


def test_an_unknown_name_is_refused(refuses) -> None:
    with refuses("UniTokConfig.from_dict", "settings"):
        UniTokConfig.from_dict({"epochs": 3, "epoch": 4})


def test_the_message_names_the_call(refuses) -> None:
    for settings, name in (({"epochs": 0}, "epochs"), ({"encoder_widths": [64, 0]}, "encoder_widths")):
        with refuses("UniTokConfig", name):
            UniTokConfig(**settings)
        with refuses("UniTokConfig.from_dict", name):
            UniTokConfig.from_dict(settings)


def test_settings_do_not_change_under_a_fitted_tokenizer() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UniTokConfig().epochs = 3  # type: ignore[misc]
