"""Make padded batches of splits, in an order that a seed decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselora.data.splits import Split
from sparselora.errors import UserError, in_one_line
from sparselora.sparse.channels.tokens import IGNORED

POOL_BATCHES = 50


@dataclass(frozen=True)
class TokenizedSplit:
    """Hold one split as token ids, unpadded."""

    features: list[dict[str, list[int]]]
    labels: list[int] | list[list[int]]
    """A row's class, or a label for each of its tokens."""
    cut_completions: int = 0
    """Rows whose completion was too long to be kept whole."""

    @property
    def lengths(self) -> list[int]:
        """Return how many tokens each row has."""
        return [len(feature["input_ids"]) for feature in self.features]

    def __len__(self) -> int:
        return len(self.labels)


def tokenize(tokenizer: Any, split: Split, max_length: int) -> TokenizedSplit:
    """Return the token ids of each example, cut at `max_length` tokens."""
    if not len(split):
        return TokenizedSplit([], [])
    encoded = encode(tokenizer, split.texts, split.pairs, truncation=True, max_length=max_length)
    features = [{name: encoded[name][index] for name in encoded} for index in range(len(split))]
    return TokenizedSplit(features, split.labels)


def encode(tokenizer: Any, *texts: Any, **how: Any) -> Any:
    """Call the tokenizer on texts, and name the model where it fails.

    Raises:
        UserError: it fails, as one whose vocabulary has no token for what it does not know.
    """
    try:
        return tokenizer(*texts, **how)
    except MemoryError:
        raise
    except Exception as error:  # the fast ones raise bare exceptions
        raise UserError(
            f"model.name_or_path={tokenizer.name_or_path}: its tokenizer fails on the texts "
            f"({in_one_line(error)}); one with its whole vocabulary is needed"
        ) from error


def collate(tokenizer: Any, split: TokenizedSplit, indices: list[int]) -> dict[str, Tensor]:
    """Return rows of a split as one batch, padded to the longest of them.

    Each tensor is (batch, length); `labels` are (batch,), or (batch, length) where each token has one.
    """
    padded = tokenizer.pad([split.features[index] for index in indices], return_tensors="pt")
    batch: dict[str, Tensor] = dict(padded)
    labels = [split.labels[index] for index in indices]
    if isinstance(labels[0], list):
        real = batch["attention_mask"] != 0
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
        # Row by row, whichever side is padded.
        batch["labels"][real] = torch.tensor([label for row in labels for label in row])  # type: ignore[union-attr]
    else:
        batch["labels"] = torch.tensor(labels)
    return batch


def training_batches(
    tokenizer: Any, split: TokenizedSplit, batch_size: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield batches without end: epoch after epoch, rows of like length together, order by seed.

    A pool's last batch is as large as what is left of it.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = split.lengths
    while True:
        for indices in length_grouped(lengths, batch_size, generator):
            yield collate(tokenizer, split, indices)


def length_grouped(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator
) -> list[list[int]]:
    """Return one epoch: every index once, in batches of like length that are not ordered by it.

    Rows are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches
    are shuffled. (The sampler that transformers has stops before that last step: its lengths fall
    from batch to batch, so a dense start would see the long ones and step times would follow suit.)
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = sorted(order[start : start + pool], key=lengths.__getitem__)
        batches += [rows[cut : cut + batch_size] for cut in range(0, len(rows), batch_size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def evaluation_batches(
    tokenizer: Any, split: TokenizedSplit, batch_size: int
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield every row once, in batches ordered by length, each with the indices of its rows."""
    lengths = split.lengths
    order = sorted(range(len(split)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, collate(tokenizer, split, indices)
