"""Train an encoder on L_mi alone, 50 steps at weight 1, and measure the effect.

Usage: `python -m benchmarks.studies.calibration DATA TOKENIZER`.

Prints a table of HSIC's mean and variance over domains, before and after, on 256 fixed items per domain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from unitok import Tokenizer, UniTokModel
from unitok.data import read_catalogue
from unitok.training.losses import calibration_loss

STEPS, ROWS, HELD_OUT, LEARNING_RATE = 50, 128, 256, 1e-3
BETAS = (1.0, 1e-2, 1e-3, 0.0)
FORMS = {"raw": ("paper", False, BETAS), "CKA": ("paper", True, BETAS), "variation": ("variation", False, (0.0,))}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a catalogue: a folder with one subfolder per domain")
    parser.add_argument("tokenizer", type=Path, help="a tokenizer that was fitted on it")
    options = parser.parse_args()
    items = [torch.from_numpy(d.embeddings.copy()).float() for d in read_catalogue(options.data).values()]
    print("| start | form | beta | Var before | after | mean before | after |\n|---|---|---|---|---|---|---|")
    for fresh in (True, False):
        for name, (form, normalised, betas) in FORMS.items():
            for beta in betas:
                model = Tokenizer.from_pretrained(options.tokenizer).model
                if fresh:
                    torch.manual_seed(0)
                    model = UniTokModel(model.input_dim, model.num_experts, model.config)
                before, after = trained(model, items, form, normalised, beta)
                start = "fresh encoder" if fresh else "fitted encoder"
                moved = " | ".join(f"{b:.2e} | {a:.2e}" for b, a in zip(before, after, strict=True))
                print(f"| {start} | {name} | {beta:g} | {moved} |", flush=True)


def trained(
    model: UniTokModel, items: list[Tensor], form: str, normalised: bool, beta: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Run the steps; return (variance, mean) before and after."""
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int) -> tuple[Tensor, Tensor]:
        parts = [x[torch.randperm(len(x), generator=generator)[:rows]] for x in items]
        return torch.cat(parts), torch.arange(len(items)).repeat_interleave(rows)

    fixed, labels = draw(HELD_OUT)

    def measure() -> tuple[float, float]:
        with torch.no_grad():
            found = calibration_loss(fixed, model.encoder(fixed), labels, len(items), normalised=normalised)
        return float(found.variance), float(found.values.nanmean())

    before = measure()
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        x, domains = draw(ROWS)
        z = model.encoder(x)
        loss = calibration_loss(x, z, domains, len(items), form=form, beta=beta, normalised=normalised).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, measure()


if __name__ == "__main__":
    main()
