"""`unitok recommend train`: train a sequence model on IDs; an interrupted run can be resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unitok.cli.inputs import counted, split_names
from unitok.cli.options import (
    Device,
    Items,
    Json,
    Threads,
    choice,
    domain_names,
    force_folder,
    output,
    usage_errors,
    use_threads,
)
from unitok.cli.recommend.catalogue import (
    LEAVE_ONE_OUT,
    check_device,
    join,
    make_split,
    of_one_moment,
    quiet,
    read_histories,
    read_ids,
)
from unitok.cli.terminal import Refusal, StepBar, console, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unitok import SemanticIds
    from unitok.data import Domain
    from unitok.recommender import Histories, SequenceRecommender, Split, TrainingConfig

MODELS = ("hybrid", "rq", "causal", "t5", "sasrec")
# How each model is trained by default: T5 as in TIGER.
_SETTINGS: dict[str, dict[str, Any]] = {
    "hybrid": {"epochs": 12, "patience": 4},
    "rq": {},
    "causal": {"learning_rate": 2e-3, "epochs": 30},
    "t5": {"learning_rate": 5e-4, "weight_decay": 0.01, "warmup": 0.01, "batch_size": 256},
    "sasrec": {"learning_rate": 1e-3, "epochs": 60, "patience": 10},
}
_HISTORY, _BEAM, _HYBRID_BEAM = 20, 50, 200
_BY_MODEL = "depends on the model"


def train(
    data: Items,
    out: Annotated[Path, output("DIR", "Folder for the recommender.")],
    ids: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IDS]",
            help="A parquet, csv or jsonl file from `unitok tokenize`, or a tokenizer's folder; sasrec needs none.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="hybrid|rq|causal|t5|sasrec|PATH",
            help="hybrid: scores every item by its tokens, its content and what came after what. rq: a decoder with "
            "one position per item (RQ-Transformer). causal: one position per token. t5: TIGER's encoder-decoder. "
            "sasrec: a decoder over items, without IDs. PATH: the folder of a causal language model of transformers, "
            "with its tokenizer and weights, or only its config.json.",
        ),
    ] = "hybrid",
    domains: Annotated[str | None, domain_names("Train on these domains only.", "all, as one")] = None,
    split: Annotated[
        str,
        choice(
            "What is kept from training. leave-one-out: each user's last two items. cold: those, and 10 % of all items "
            "wherever they are met. time: the last 20 % of all events; interactions need timestamps.",
            *("leave-one-out", "cold", "time"),
        ),
    ] = "leave-one-out",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most passes over the histories.", show_default=_BY_MODEL),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Target items per step.", show_default=_BY_MODEL)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="R", help="The peak; it decays to 0.", show_default=_BY_MODEL)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Stop after N epochs without a better NDCG@10; 0: never.",
            show_default=_BY_MODEL,
        ),
    ] = None,
    history: Annotated[int, typer.Option(min=1, metavar="N", help="Latest items of a user that are read.")] = _HISTORY,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Prefixes that the beam search keeps; hybrid searches only where there are over 262,144 items.",
            show_default=f"{_HYBRID_BEAM} for hybrid, else {_BEAM}",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of weights, batches and dropout.")] = 0,
    precision: Annotated[
        str | None,
        typer.Option(metavar="float32|bfloat16", help="Precision of matrix products.", show_default="float32"),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    force: Annotated[bool, force_folder("recommender")] = False,
    as_json: Json = False,
) -> None:
    """Train a recommender on the histories of a catalogue: on all of a user's items except the last two.

    The last but one is for validation: training stops when NDCG@10 by item stops improving, and the best weights are
    kept. The last is kept for `unitok recommend evaluate`. Several domains are trained as one catalogue. --split says
    what else is kept from training, to see how items that came later are ranked; `evaluate` then asks for those.

    Ctrl-C leaves a checkpoint in --out: the same command resumes from it and ends at the same weights. A language
    model's tokenizer is saved beside it, with the tokens of the IDs: transformers loads both from --out.

    For example:

        unitok recommend train catalogue ids.parquet --out runs/recommender
        unitok recommend train catalogue runs/tokenizer --domains beauty --model t5 --out runs/tiger
        unitok recommend train catalogue --model sasrec --out runs/sasrec
        unitok recommend train catalogue ids.parquet --split cold --out runs/cold
        unitok recommend train catalogue ids.parquet --model checkpoints/llama --out runs/llama --device cuda
    """
    if ids is None and model != "sasrec":
        raise typer.BadParameter("IDs are needed by every model but sasrec: pass a file or a tokenizer.")
    given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "patience": patience}
    config = _config(model, {**given, "precision": precision, "seed": seed})
    _check_output(out, force)

    from unitok.data import read_catalogue
    from unitok.recommender import HybridRecommender
    from unitok.recommender.saving import check_tokenizer
    from unitok.storage.lock import only_writer

    quiet()
    check_device(device)
    use_threads(threads)
    with of_one_moment(data):
        parts = read_catalogue(data, split_names(domains))
        sizes = {name: len(part.keys) for name, part in parts.items()}
        histories = read_histories(data, sizes)
        made = make_split({"kind": split}, data, histories, sizes, history)
        known = None if ids is None else read_ids(ids, data, parts, made)
    # Whole histories are split by `fit` itself: a run that an older release began is resumed.
    learnt = join(histories) if made.how == LEAVE_ONE_OUT else made
    if model == "hybrid" and known is not None:
        recommender, tokenizer = _hybrid(known, parts, learnt, history, beam or _HYBRID_BEAM, seed), None
    else:
        recommender, tokenizer = _create(model, known, sum(sizes.values()), history, beam or _BEAM, seed)
    if tokenizer is not None:
        check_tokenizer("train", out, tokenizer)  # not only when all is trained
    recommender = recommender.to(device)
    with only_writer("train", out):
        _check_output(out, force)  # another may have trained there meanwhile
        if force:
            _remove_checkpoint(out)
        began = time.perf_counter()
        records = _fit(recommender, learnt, config, out)
        seconds = time.perf_counter() - began
        best = max(records, key=lambda record: record["ndcg"])
        recommender.about = {"model": model, "domains": sizes, "split": made.how, "epochs": records}
        recommender.save_pretrained(out, force=True, tokenizer=tokenizer)
        _remove_checkpoint(out)
    balance = recommender.model.balance.tolist() if isinstance(recommender, HybridRecommender) else None
    if as_json:
        summary = {"out": str(out), "seconds": round(seconds, 3), "best": best, "epochs": records, "balance": balance}
        print_json(summary)
        return
    chosen = ""
    if balance is not None:
        share, content = (f"{factor:.2g}" for factor in balance)
        chosen = f"Chosen on validation: the model counts {share} times and content {content} times, its memory once.\n"
    learnt_from = counted(int((made.training.lengths > 0).sum()), "user")
    console().print(
        f"Trained on {learnt_from} and {counted(sum(sizes.values()), 'item')} in {seconds:.0f} s; "
        f"best epoch: {best['epoch'] + 1}, with a validation NDCG@10 of {best['ndcg']:.4f}.\n"
        f"{chosen}Next: unitok recommend evaluate {out} {data}",
        markup=False,
        soft_wrap=True,
    )


def _config(model: str, options: dict[str, Any]) -> TrainingConfig:
    """The settings that suit the model, with those that the user gave."""
    from unitok.recommender import TrainingConfig

    given = {name: value for name, value in options.items() if value is not None}
    with usage_errors():
        config = TrainingConfig(**_SETTINGS[model if model in MODELS else "causal"] | given)
    if model not in MODELS and not Path(model, "config.json").is_file():
        raise typer.BadParameter(f"--model must be {', '.join(MODELS)} or a folder with config.json, got {model!r}.")
    return config


def _hybrid(
    ids: SemanticIds, parts: Mapping[str, Domain], histories: Histories | Split, history: int, beam: int, seed: int
) -> SequenceRecommender:
    """Make a hybrid model; it knows the items' content if all domains were embedded alike."""
    import numpy as np
    import torch

    from unitok.recommender import HybridRecommender, TokenTable

    found = list(parts.values())
    content = None
    if len({(part.embedding, part.embeddings.shape[1]) for part in found}) == 1:
        content = torch.from_numpy(np.concatenate([part.embeddings for part in found]).astype(np.float32))
    else:
        console().print("The domains' embeddings are of several models: items are told apart by their tokens alone.")
    table = TokenTable.of(ids, by_expert=True)
    sizes: dict[str, Any] = {"history": history, "beam": beam, "seed": seed}
    return HybridRecommender.create(table, histories=histories, content=content, **sizes)


def _create(
    model: str, ids: SemanticIds | None, num_items: int, history: int, beam: int, seed: int
) -> tuple[SequenceRecommender, Any]:
    """Make the model, and extend the tokenizer of a language model; None where there is none."""
    from unitok.recommender import (
        CausalRecommender,
        RQRecommender,
        T5Recommender,
        TokenTable,
        extend_vocabulary,
        sasrec_config,
    )

    sizes: dict[str, Any] = {"history": history, "beam": beam}
    if ids is None or model == "sasrec":
        return CausalRecommender.create(TokenTable.items(num_items), sasrec_config(), seed=seed, **sizes), None
    kinds: dict[str, Any] = {"rq": RQRecommender, "causal": CausalRecommender, "t5": T5Recommender}
    if model in kinds:
        return kinds[model].create(TokenTable.of(ids), seed=seed, **sizes), None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        if not any(Path(model).glob("*.safetensors")):
            config = AutoConfig.from_pretrained(model)
            return CausalRecommender.create(TokenTable.of(ids), config, seed=seed, **sizes), None
        tokenizer, weights = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        step = "Save model and tokenizer there with save_pretrained."
        rule = "the folder must hold a causal language model of transformers"
        raise Refusal(f"{model}: {rule}, got one that can't be read: {error}. {step}") from error
    torch.manual_seed(seed)  # of the new embeddings
    return CausalRecommender(weights, extend_vocabulary(tokenizer, weights, ids), **sizes), tokenizer


def _fit(recommender: SequenceRecommender, histories: Any, config: TrainingConfig, out: Path) -> list[dict[str, Any]]:
    from unitok.recommender import fit
    from unitok.recommender.training import CHECKPOINT

    with StepBar("training", "steps", out / CHECKPOINT) as bar:

        def on_epoch(record: dict[str, Any]) -> None:
            bar.say(
                f"epoch {record['epoch'] + 1:>{len(str(config.epochs))}}/{config.epochs}  loss {record['loss']:.4f}  "
                f"NDCG@10 {record['ndcg']:.4f}  {record['seconds']:.1f} s"
            )

        try:
            return fit(recommender, histories, config, directory=out, progress=bar, on_epoch=on_epoch)
        except KeyboardInterrupt:
            bar.say(f"interrupted after step {bar.done}; the same command resumes from the checkpoint in {out}")
            raise typer.Exit(130) from None
        except RuntimeError as error:  # the loss became NaN or infinite
            raise Refusal(str(error)) from error


def _check_output(out: Path, force: bool) -> None:
    from unitok.storage.saved import RECOMMENDER, check_free
    from unitok.storage.whole import current

    if out.exists() and not out.is_dir():
        raise Refusal(f"{out}: the output must be a folder, got a file. Choose another name.")
    if not force and (current(out) / RECOMMENDER.settings).exists():
        step = "Choose another folder, or pass --force to replace it."
        raise Refusal(f"{out}: the output must hold no recommender yet, got {RECOMMENDER.settings}. {step}")
    check_free("train", RECOMMENDER, out, force=True)  # whatever else is there is never replaced


def _remove_checkpoint(out: Path) -> None:
    """Delete the files that only a running or interrupted training needs."""
    from unitok.recommender.training import BEST, CHECKPOINT

    for name in (CHECKPOINT, BEST):
        (out / name).unlink(missing_ok=True)
