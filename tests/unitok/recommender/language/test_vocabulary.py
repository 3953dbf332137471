"""The tokens of IDs in a language model's vocabulary: each is found and read back, whatever the tokenizer does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unitok.recommender.test_token_table import ids
from unitok import SemanticIds
from unitok.recommender import CausalRecommender, SequenceRecommender, extend_vocabulary

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789<>_ \u2581"


def tokenizer(**special: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "the", "next", "item", "is"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **special)


def language_model(kind: str, rows: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=8, n_layer=1, n_head=2, n_positions=256))
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, tie_word_embeddings=False, **sizes))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ids_extend_a_vocabulary_once(kind: str) -> None:
    words, model = tokenizer(bos_token="<s>", eos_token="</s>"), language_model(kind, 7)
    before = model.get_input_embeddings().weight.detach().clone()
    made = ids([[0, 3], [1, 2], [2, 0], [2, 0]], [0, 2, 2, 2])
    table = extend_vocabulary(words, model, made)
    # 4 codes in each of two columns, and 3 pairs of expert and suffix
    assert len(words) == table.vocab_size == 7 + 4 + 4 + 3
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert embeddings.weight.shape[0] == 18
    assert torch.equal(model.get_input_embeddings().weight[:7], before)
    assert (table.start, table.pad) == (1, 1)
    texts = [text.replace("><", "> <", 2) for text in made.to_text()]
    assert words("the next item is " + texts[3])["input_ids"] == [3, 4, 5, 6, *table.tokens[3].tolist()]
    grown = {name: value.clone() for name, value in model.state_dict().items()}
    again = extend_vocabulary(words, model, made)
    assert torch.equal(again.tokens, table.tokens)
    assert len(words) == 18
    assert all(torch.equal(value, grown[name]) for name, value in model.state_dict().items())
    recommender = CausalRecommender(model, table, history=4)
    assert sorted(recommender.rank(torch.tensor([[-1, 2, 0]]), 4, exclude_seen=False)[0].tolist()) == [0, 1, 2, 3]
    assert recommender.loss(torch.tensor([[1, 2, -1]])).isfinite()


def test_rows_to_spare_are_kept() -> None:
    words, model = tokenizer(eos_token="</s>"), language_model("gpt2", 64)
    table = extend_vocabulary(words, model, ids([[0, 3], [1, 2]], [0, 0]))
    assert (table.vocab_size, table.start) == (64, 2)


def test_a_tokenizer_that_does_not_fit_is_refused(refuses: Callable[..., Any]) -> None:
    made = ids([[0, 3], [1, 2]], [0, 0])
    with refuses("extend_vocabulary", "tokenizer"):
        extend_vocabulary(tokenizer(), language_model("gpt2", 7), made)
    with refuses("extend_vocabulary", "tokenizer"):
        extend_vocabulary(tokenizer(bos_token="<s>"), language_model("gpt2", 6), made)
    with refuses("extend_vocabulary", "ids"):
        extend_vocabulary(tokenizer(bos_token="<s>"), language_model("gpt2", 7), made[:0])
    with refuses("extend_vocabulary", "layout"):
        extend_vocabulary(tokenizer(bos_token="<s>"), language_model("gpt2", 7), made, "top1_shared")


def language_tokenizer(kind: str) -> Any:
    """A tokenizer of single characters that does to text what those of a family of language models do."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import ByT5Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {piece: number for number, piece in enumerate([*special, *CHARACTERS])}
    if kind == "slow":
        return ByT5Tokenizer(bos_token="</s>")
    if kind == "llama":
        return LlamaTokenizer(vocab=vocabulary, merges=[])
    if kind == "byte-level":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made = Tokenizer(models.BPE({piece: n for n, piece in enumerate([*special, *sorted(alphabet)])}, []))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    elif kind == "wordpiece":
        inner = [f"##{piece}" for piece in CHARACTERS]
        pieces = {piece: number for number, piece in enumerate([*vocabulary, *inner])}
        made = Tokenizer(models.WordPiece(pieces, unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
    elif kind == "unigram":
        made = Tokenizer(models.Unigram([(piece, -1.0) for piece in vocabulary], unk_id=0))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
        if kind == "prepend":  # as the fast tokenizers of Llama 2
            made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
            spaces = decoders.Replace("\u2581", " ")
            made.decoder = decoders.Sequence([spaces, decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        else:
            made.normalizer = {"lowercase": normalizers.Lowercase(), "nfkc": normalizers.NFKC()}[kind]
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


FAMILIES = ["prepend", "llama", "lowercase", "nfkc", "byte-level", "wordpiece", "unigram", "slow"]
SIZES = {"codebook_size": 4, "num_experts": 3}
MADE = ids([[0, 3], [1, 2], [2, 0], [2, 0]], [0, 2, 2, 2])  # 4 + 4 codes, and 3 pairs of expert and suffix


@pytest.mark.parametrize("kind", FAMILIES)
def test_ids_are_read_and_written_by_every_tokenizer(kind: str, tmp_path: Path) -> None:
    words = language_tokenizer(kind)
    table = extend_vocabulary(words, language_model("gpt2", len(words)), MADE)
    words.save_pretrained(tmp_path)
    for read in (words, type(words).from_pretrained(tmp_path)):
        for text, tokens in zip(MADE.to_text(), table.tokens.tolist(), strict=True):
            assert read(text, add_special_tokens=False)["input_ids"] == tokens
            after = read(f"item {text}{text}", add_special_tokens=False)["input_ids"]
            assert after[-6:] == 2 * tokens
            said = read.decode(tokens, skip_special_tokens=True)
            assert SemanticIds.from_text([said], num_levels=2, **SIZES).to_text() == [text]


def test_strings_that_an_older_release_added_are_added_anew() -> None:
    words = language_tokenizer("prepend")
    words.add_tokens(["<a_0>", "<a_1>", "<b_2>"])
    assert len(words("<a_1><b_2>", add_special_tokens=False)["input_ids"]) > 2
    numbers = words.convert_tokens_to_ids(["<a_1>", "<b_2>"])
    extend_vocabulary(words, language_model("gpt2", len(words)), MADE)
    assert words("<a_1><b_2>", add_special_tokens=False)["input_ids"] == numbers
    with_old, alone = words.decode(numbers), SemanticIds.from_text(["<a_1><b_2>"], num_levels=1, **SIZES)
    assert SemanticIds.from_text([with_old], num_levels=1, **SIZES).equals(alone)


class Deaf:
    """A tokenizer that doesn't do what it is asked for: it gives other tokens, or another text."""

    def __init__(self, words: Any, fault: str) -> None:
        self.words, self.fault = words, fault

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "words":
            raise AttributeError(name)
        return getattr(self.words, name)

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, *args: Any, **options: Any) -> Any:
        read = self.words(*args, **options)
        return {"input_ids": read["input_ids"][: -1 if self.fault == "reads" else None]}

    def decode(self, tokens: list[int]) -> str:
        said: str = self.words.decode(tokens)
        return said.upper() if self.fault == "writes" else said


@pytest.mark.parametrize("fault", ["reads", "writes"])
def test_a_tokenizer_that_loses_tokens_is_refused_and_left_alone(fault: str, refuses: Callable[..., Any]) -> None:
    words, model = language_tokenizer("nfkc"), language_model("gpt2", 60)
    before = len(words)
    with refuses("extend_vocabulary", "tokenizer"):
        extend_vocabulary(Deaf(words, fault), model, MADE)
    assert len(words) == before


def test_ids_of_two_forms_that_are_one_text_are_refused(refuses: Callable[..., Any]) -> None:
    # Pairs of expert and suffix of IDs of one level, <b_0><c_1>, would be read for two columns of longer IDs.
    short = ids([[0], [0], [1]], [0, 0, 1])
    words, model = language_tokenizer("nfkc"), language_model("gpt2", 80)
    extend_vocabulary(words, model, short)
    longer = ids([[0, 0, 3], [1, 1, 2], [2, 2, 0]], [0, 2, 1])
    before = copy.deepcopy(words.get_vocab())
    with refuses("extend_vocabulary", "tokenizer") as caught:
        extend_vocabulary(words, model, longer)
    assert "<b_0><c_0> beside <b_0> and <c_0>" in str(caught.value)
    assert words.get_vocab() == before


def test_arguments_of_other_types_are_refused(refuses: Callable[..., Any]) -> None:
    words, model = tokenizer(bos_token="<s>"), language_model("gpt2", 7)
    with refuses("extend_vocabulary", "tokenizer", TypeError):
        extend_vocabulary(model, words, MADE)
    with refuses("extend_vocabulary", "model", TypeError):
        extend_vocabulary(words, MADE, model)
    with refuses("extend_vocabulary", "ids", TypeError):
        extend_vocabulary(words, model, MADE.to_text())  # type: ignore[arg-type]
    assert len(words) == 7


def test_model_and_tokenizer_are_saved_in_one_folder(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, model = language_tokenizer("prepend"), language_model("llama", 60)
    recommender = CausalRecommender(model, extend_vocabulary(words, model, MADE), history=4)
    recommender.save_pretrained(tmp_path, tokenizer=words)
    read, loaded = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert read(MADE.to_text()[3], add_special_tokens=False)["input_ids"] == recommender.table.tokens[3].tolist()
    assert len(loaded.get_input_embeddings().weight) == recommender.table.vocab_size
    file = tmp_path / "tokenizer.json"
    changed = file.read_bytes().replace(b"<a_1>", b"<a_7>")
    file.write_bytes(changed)
    with refuses("from_pretrained", "directory"):  # the tokenizer is one of the files that the settings vouch for
        SequenceRecommender.from_pretrained(tmp_path)
    recommender.save_pretrained(tmp_path, force=True)
    assert file.read_bytes() == changed  # whoever changed it, it isn't what a save wrote
    assert SequenceRecommender.from_pretrained(tmp_path).table.tokens.equal(recommender.table.tokens)
    with refuses("save_pretrained", "tokenizer", TypeError):
        recommender.save_pretrained(tmp_path, force=True, tokenizer="words")
