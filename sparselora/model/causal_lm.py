"""Turn prompts and completions into tokens, and tell how many a model completes to the letter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor, nn

from sparselora.data.batches import TokenizedSplit, encode
from sparselora.data.splits import Message, Split
from sparselora.errors import UserError
from sparselora.model.chat_template import check_user_messages, render_chat
from sparselora.sparse.channels.tokens import IGNORED

Prompt = str | Sequence[Message]
"""A text, or the messages that the answer follows."""
PROMPT_SHARE = 0.25
"""Of `max_length`: what a completion leaves a prompt that needs it."""


def tokenize_completions(
    tokenizer: Any,
    split: Split,
    max_length: int,
    chat_template: bool,
    prompt_end: str = "",
) -> TokenizedSplit:
    """Return each prompt with its completion and the end-of-text token; loss is on the latter two alone.

    A prompt is put into the tokenizer's chat template, where it has one and `chat_template` asks for it.
    Where both are too long, the prompt loses the end of its text, but for `prompt_end`, never the chat
    template; and a completion so long that it would leave the prompt less than a quarter of
    `max_length` loses its own end, the end-of-text token with it.

    Args:
        tokenizer: of the model.
        split: its prompts and completions, or chats.
        max_length: tokens that a row may have.
        chat_template: whether the tokenizer's chat template is used.
        prompt_end: what every prompt ends in.

    Raises:
        UserError: the templates leave a prompt no token of `max_length`.
    """
    if not len(split):
        return TokenizedSplit([], [])
    assert split.completions is not None
    if tokenizer.eos_token_id is None:
        raise UserError(
            "task=causal_lm: the model's tokenizer has no end-of-text token, which ends a completion; "
            'set "eos_token" in its tokenizer_config.json'
        )
    chats = chat_template and tokenizer.chat_template is not None
    if chats and split.chats is None:
        check_user_messages(tokenizer)
    rows: Sequence[Prompt] = split.chats or split.texts
    prompts = _prompts(tokenizer, rows, chats)
    plain = {"add_special_tokens": False, "return_attention_mask": False}
    completions = encode(tokenizer, split.completions, **plain)["input_ids"]
    features, labels, cut = [], [], 0
    for row, completion in enumerate(completions):
        prompt, answer = prompts[row], [*completion, tokenizer.eos_token_id]
        room = max_length - min(len(prompt), int(max_length * PROMPT_SHARE))
        cut += len(answer) > room
        answer = answer[:room]
        over = len(prompt) + len(answer) - max_length
        if over > 0:
            shorter = _shorter(tokenizer, rows[row], over, chats, prompt_end)
            if shorter is None:
                raise UserError(
                    f"data.max_length={max_length}: leaves example {split.example_ids[row]} no token "
                    f"of its prompt beside the template and {len(answer)} of its completion; raise it"
                )
            prompt = shorter
        ids = [*prompt, *answer]
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
        labels.append([IGNORED] * len(prompt) + answer)
    return TokenizedSplit(features, labels, cut)


def _prompts(tokenizer: Any, prompts: Sequence[Prompt], chats: bool) -> list[list[int]]:
    ids: list[list[int]] = encode(
        tokenizer,
        [_text(tokenizer, prompt, chats) for prompt in prompts],
        add_special_tokens=not chats,  # a template writes them itself
        return_attention_mask=False,
    )["input_ids"]
    # Some tokenizers close a text, which here goes on.
    return [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in ids]


def _text(tokenizer: Any, prompt: Prompt, chats: bool) -> str:
    if isinstance(prompt, str):
        messages: Sequence[Message] = [{"role": "user", "content": prompt}]
    elif chats or len(prompt) == 1:
        messages = prompt
    else:
        raise UserError(
            f"task.chat_template: a chat of {len(prompt)} messages before the answer needs the "
            "tokenizer's chat template, and this tokenizer has none, or task.chat_template=false"
        )
    if not chats:
        return messages[0]["content"]
    return render_chat(tokenizer, [dict(message) for message in messages])


def _shorter(tokenizer: Any, prompt: Prompt, over: int, chats: bool, end: str) -> list[int] | None:
    """Return the tokens without the end of the prompt's text or last message; None: none are left."""
    before = len(_prompts(tokenizer, [prompt], chats)[0])
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    if end and text.endswith(end):
        text = text[: -len(end)]
    else:
        end = ""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    # A cut can fall inside a character, whose remains take tokens of their own: then cut on.
    for kept in range(len(ids) - over, 0, -1):
        cut = tokenizer.decode(ids[:kept]) + end
        shorter = cut if isinstance(prompt, str) else [*prompt[:-1], {**prompt[-1], "content": cut}]
        found = _prompts(tokenizer, [shorter], chats)[0]
        if len(found) <= before - over:
            return found
    return None


@dataclass(frozen=True)
class Completions:
    """Hold what a model made of one split's prompts, a row an example."""

    correct: list[bool]
    """Whether greedy decoding gives the completion to the letter, its end included."""
    losses: list[float]
    """Summed over the completion's tokens, nats."""
    tokens: list[int]
    """Of the completion, the end-of-text token included."""
    answers: list[str]
    """The likeliest token at each place of the completion, given those before it."""

    def metrics(self) -> dict[str, float]:
        """Return accuracy, which is the share of exact matches, and loss (nats a completion token)."""
        return {
            "accuracy": sum(self.correct) / len(self.correct),
            "loss": sum(self.losses) / sum(self.tokens),
        }

    def predictions(self, split: Split, split_name: str, step: int) -> pd.DataFrame:
        """Return a row an example: what paired statistics need."""
        return pd.DataFrame(
            {
                "split": split_name,
                "step": step,
                "example_id": split.example_ids,
                "group": split.groups,
                "correct": self.correct,
                "loss": self.losses,
                "answer": self.answers,
            }
        )


@dataclass
class CompletionReader:
    """Read a decoder's outputs over the batches of one split.

    Nothing is generated: greedy decoding gives a completion to the letter just where, with the
    completion before it as context, each of its tokens is the likeliest. (A text that is the same in
    other tokens counts as another.) So one forward pass gives both the match and the loss.
    """

    tokenizer: Any
    rows: dict[int, tuple[bool, float, int, str]] = field(default_factory=dict)

    def read(self, model: nn.Module, indices: list[int], batch: dict[str, Tensor]) -> None:
        """Read one batch, of rows `indices`, on the model's device."""
        positions, labels = labelled_positions(batch["labels"])
        there = labels != IGNORED
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, logits_to_keep=positions).logits.float()
        losses = nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        predicted = logits.argmax(-1)
        correct = ((predicted == labels) | ~there).all(1)
        sums, counts = losses.sum(1), there.sum(1)
        for place, row in enumerate(indices):
            text = self.tokenizer.decode(predicted[place][there[place]], skip_special_tokens=True)
            self.rows[row] = (
                bool(correct[place]),
                float(sums[place]),
                int(counts[place]),
                text,
            )

    def result(self, split: TokenizedSplit) -> Completions:
        """Return what was read of all rows, in order."""
        columns = zip(*(self.rows[row] for row in range(len(split))), strict=True)
        return Completions(*map(list, columns))


def labelled_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions at which a labelled token is predicted, and the labels there.

    Args:
        labels: (B, T), not shifted: the token at t is predicted at t − 1.

    Returns:
        The positions at which any row predicts a labelled token, (n,), ascending, and the labels of
        those predictions, (B, n). Waits for the device.
    """
    following = labels[:, 1:]
    positions = (following != IGNORED).any(0).nonzero().squeeze(1)
    return positions, following[:, positions]


def completion_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean loss of the completions' tokens, with the head applied where one is predicted.

    It is equal to `model(**batch).loss`, whose logits of every position are a fifth of a small decoder's
    products and most of its memory.
    """
    positions, labels = labelled_positions(batch["labels"])
    output = model(**batch, logits_to_keep=positions, shift_labels=labels)
    loss: Tensor = output.loss
    return loss
