"""Items as tokens, in a vocabulary of their own and in that of a language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unitok import SemanticIds
from unitok.recommender import CausalRecommender, TokenTable, extend_vocabulary


def ids(codes: list[list[int]], experts: list[int], **fields: Any) -> SemanticIds:
    made = SemanticIds(torch.tensor(codes), torch.tensor(experts)[:, None], codebook_size=4, num_experts=3, **fields)
    return made.assign(range(len(codes)))


def test_columns_have_ranges_of_their_own() -> None:
    # The expert and the suffix are one column of the pairs that there are: (0, 0), (2, 0), (2, 1).
    table = TokenTable.of(ids([[0, 3], [1, 3], [2, 0], [2, 0]], [0, 2, 2, 2]))
    assert table.tokens.tolist() == [[2, 9, 10], [3, 9, 11], [4, 6, 11], [4, 6, 12]]
    assert (table.vocab_size, table.start, table.pad, table.width) == (13, 1, 0, 3)
    assert table.names.tolist() == [0, 1, 2, 3]
    assert table.groups is not None
    assert table.groups.tolist() == [0, 1, 2, 2]


def test_columns_that_say_nothing_are_left_out() -> None:
    table = TokenTable.of(ids([[0, 3], [1, 3]], [1, 1]))
    assert table.tokens.tolist() == [[2], [3]]
    assert TokenTable.of(ids([[2, 1]], [1])).tokens.tolist() == [[4]]


def test_layouts_need_no_suffix() -> None:
    shared = torch.tensor([[1, 1], [0, 1]])
    made = SemanticIds(torch.tensor([[0, 3], [0, 2]]), torch.tensor([[0], [1]]), 4, 2, shared_codes=shared)
    assert TokenTable.of(made).tokens.tolist() == [[5, 6], [4, 7]]
    assert TokenTable.of(made, "top1_shared").tokens.tolist() == [[5, 6, 9], [4, 7, 8]]


def test_what_is_no_table_is_refused(refuses: Callable[..., Any]) -> None:
    with refuses("TokenTable.of", "ids"):
        TokenTable.of(ids([[0, 3]], [1])[:0])
    with pytest.raises(ValueError, match=r"TokenTable\.of: every row must have been encoded"):
        TokenTable.of(SemanticIds(torch.tensor([[-1, 0]]), torch.tensor([[0]]), 4, 3))
    for tokens, size in (
        (torch.zeros(0, 2, dtype=torch.int64), 3),
        (torch.tensor([[3]]), 3),
        (torch.tensor([[-1]]), 3),
    ):
        with refuses("TokenTable", "tokens"):
            TokenTable(tokens, size)


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
    assert sorted(recommender.rank(torch.tensor([[-1, 2, 0]]), 4)[0].tolist()) == [0, 1, 2, 3]
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
