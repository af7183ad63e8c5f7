"""Check tokenized data against the model that will read them, before its first step."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from sparselora.config.schema import RunConfig
from sparselora.data.batches import TokenizedSplit
from sparselora.errors import UserError

UNKNOWN_SHARE = 0.5
"""Of the training texts' tokens: a larger share of unknown ones is told."""
ALL_UNKNOWN_SHARE = 0.9
"""A larger one is refused: there is nothing to learn."""


def check_tokens(
    run: RunConfig, tokenizer: Any, tokenized: Mapping[str, TokenizedSplit], config: Any
) -> None:
    """Check that the model has an embedding for every id that data, template or padding use.

    Args:
        run: its settings.
        tokenizer: of the model.
        tokenized: its splits.
        config: of the model.

    Raises:
        UserError: it has not; or an example is without a token.
    """
    limits = {"input_ids": getattr(config, "vocab_size", None)}
    if getattr(config, "type_vocab_size", 0):
        limits["token_type_ids"] = config.type_vocab_size
    name = run.model.name_or_path
    for split_name, split in tokenized.items():
        empty = [row for row, length in enumerate(split.lengths) if not length]
        if empty:
            raise UserError(
                f"data.path={run.data.path}: {len(empty)} rows of the {split_name} split have no token "
                f"in this model's tokenizer (the first is row {empty[0]}); rows with text are allowed"
            )
        for kind, limit in limits.items():
            largest = _largest(split, kind)
            if limit is not None and largest >= limit:
                token = (
                    repr(tokenizer.convert_ids_to_tokens(largest)) if kind == "input_ids" else ""
                )
                raise UserError(
                    f"model.name_or_path={name}: {kind} of the {split_name} split go up to {largest}"
                    f"{f' ({token})' if token else ''}, and the model has {limit} embeddings for them; "
                    "the tokenizer that goes with the model is needed"
                )
    rows = limits["input_ids"]
    pads = max(run.train.batch_size, run.measure.eval_batch_size) > 1
    if pads and rows is not None and tokenizer.pad_token_id >= rows:
        raise UserError(
            f"model.name_or_path={name}: its tokenizer pads with {tokenizer.pad_token!r}, id "
            f'{tokenizer.pad_token_id}, and the model has {rows} embeddings; set a "pad_token" that '
            "the model knows in its tokenizer_config.json"
        )


def check_known(run: RunConfig, share: float | None) -> None:
    """Raise a `UserError` where nearly all tokens of the training texts are unknown to the tokenizer."""
    if share is not None and share > ALL_UNKNOWN_SHARE:
        raise UserError(
            f"model.name_or_path={run.model.name_or_path}: {share:.0%} of the training texts' tokens are "
            "unknown to its tokenizer; a model, and a whole vocabulary, of the data's language is needed"
        )


def told(notes: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of the model that was loaded, a sentence each.

    Args:
        notes: what `load_tokenizer`, `load_model` and `unknown_share` left in a record.
    """
    sentences = []
    share = notes.get("unknown_share")
    if share is not None and share > UNKNOWN_SHARE:
        sentences.append(
            f"model.name_or_path: {share:.0%} of the training texts' tokens are unknown to its "
            "tokenizer: the model hardly tells these texts apart"
        )
    made_new = notes.get("made_new")
    frozen = [] if made_new is None else made_new["frozen"]
    if frozen:
        sentences.append(
            f"model.name_or_path: {', '.join(frozen)} are not in its files; drawn at random, and they do "
            "not train"
        )
    return sentences


def unknown_share(tokenizer: Any, split: TokenizedSplit) -> float | None:
    """Return the share of unknown tokens among those of the texts themselves; None where none can be."""
    unknown = tokenizer.unk_token_id
    others = set(tokenizer.all_special_ids)
    named = ("pad", "eos", "bos", "cls", "sep", "mask")
    if unknown is None or unknown in {getattr(tokenizer, f"{name}_token_id") for name in named}:
        return None  # bytes, or a token that means something else as well
    unknowns = total = 0
    for feature in split.features:
        for token in feature["input_ids"]:
            unknowns += token == unknown
            total += token == unknown or token not in others
    return unknowns / total if total else None


def _largest(split: TokenizedSplit, kind: str) -> int:
    ids = chain.from_iterable(feature.get(kind, ()) for feature in split.features)
    return max(ids, default=-1)
