"""Load the tokenizer that goes with a backbone: whole, and padding as the model needs it."""

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers.utils import cached_file

from sparselora.config.groups import ModelConfig
from sparselora.data import assets
from sparselora.errors import UserError
from sparselora.model.pretrained import load_model_config, read_pretrained
from sparselora.sparse.backbone.lookup import get_architecture

WHOLE_FILE = "tokenizer.json"
PROBES, PROBE_TOKENS = 20, 8
"""Texts that a tokenizer is tried on, and how many tokens of its vocabulary each is made of."""
OTHER_FILES = ("tokenizer.model", "tekken.json", "tiktoken.model")
"""That transformers converts, whatever the class."""


def load_tokenizer(model: ModelConfig, notes: dict[str, Any] | None = None) -> Any:
    """Load the tokenizer that goes with the backbone, padding so that padding changes no output.

    One without a pad token pads with its last.

    Args:
        model: the settings of `model`.
        notes: takes `padding`: the side and the id, as used and as the tokenizer has them.

    Raises:
        UserError: it cannot be loaded, a file of its vocabulary is missing, or nothing can pad.
    """
    tokenizer = read_pretrained(transformers.AutoTokenizer, model)
    _check_vocabulary(tokenizer, model)
    if not _reads_as_its_file(tokenizer, model):
        # Some classes make a tokenizer of their own of another's vocabulary.
        tokenizer = read_pretrained(transformers.PreTrainedTokenizerFast, model)
    own = {"side": tokenizer.padding_side, "id": tokenizer.pad_token_id}
    config = load_model_config(model)
    row = get_architecture(config)
    if row.positions == "ids":
        _pad_as_positions_need(tokenizer, padding_id(config), model.name_or_path)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"model.name_or_path={model.name_or_path}: its tokenizer has neither a pad token nor "
                'an end-of-text token; set "pad_token" in its tokenizer_config.json'
            )
        tokenizer.pad_token = tokenizer.eos_token
    if not row.pads_on_any_side:
        tokenizer.padding_side = "right"
    if notes is not None:
        notes["padding"] = {
            "side": tokenizer.padding_side,
            "id": tokenizer.pad_token_id,
            "tokenizer_side": own["side"],
            "tokenizer_id": own["id"],
        }
    return tokenizer


def padding_id(config: Any) -> int | None:
    """Return the padding's id as the model itself knows it; None where its config has none."""
    row = get_architecture(config)
    known = getattr(config, "pad_token_id", None)
    return known if row.padding_id is None else row.padding_id


def _pad_as_positions_need(tokenizer: Any, needed: int | None, name: str) -> None:
    """Have the tokenizer pad with the id that the model leaves out when it counts positions.

    Raises:
        UserError: that id is none of the tokenizer's, a word's, or one that stands in every text.
    """
    if needed is None or tokenizer.pad_token_id == needed:
        return
    known = 0 <= needed < len(tokenizer)
    token = tokenizer.convert_ids_to_tokens(needed) if known else None
    added = tokenizer.added_tokens_decoder.get(needed)
    special = needed in tokenizer.all_special_ids or getattr(added, "special", False)
    if token is None or not special or needed in tokenizer("")["input_ids"]:
        raise UserError(
            f"model.name_or_path={name}: its model takes token {needed} ({token!r}) for padding and "
            f"counts positions by it; its tokenizer pads with {tokenizer.pad_token_id} "
            f"({tokenizer.pad_token!r}); one id in both is needed"
        )
    tokenizer.pad_token = token


def _check_vocabulary(tokenizer: Any, model: ModelConfig) -> None:
    """Raise a `UserError` where the files that hold the tokenizer's vocabulary are not there.

    transformers makes a tokenizer of a few tokens without them, to which every word is unknown.
    """
    if model.gguf_file is not None:
        return  # which holds the vocabulary
    needed = [name for key, name in type(tokenizer).vocab_files_names.items() if name != WHOLE_FILE]
    if not type(tokenizer).vocab_files_names:
        return  # bytes or characters, which need no list
    path = assets.resolve(model.name_or_path)
    if any(_is_there(path, name, model.revision) for name in (WHOLE_FILE, *OTHER_FILES)):
        return
    missing = [name for name in needed if not _is_there(path, name, model.revision)]
    if missing or not needed:
        raise UserError(
            f"model.name_or_path={model.name_or_path}: its tokenizer has no vocabulary, since "
            f"{' and '.join(missing) or WHOLE_FILE} is not there or empty; {WHOLE_FILE}"
            f"{f' or {chr(32).join(needed)}' if needed else ''} is needed"
        )


def _reads_as_its_file(tokenizer: Any, model: ModelConfig) -> bool:
    """Return whether texts of its own vocabulary give the tokens that tokenizer.json itself gives.

    By most of them: a class may well treat blanks at the beginning in its own way.
    """
    if model.gguf_file is not None or not _is_there(
        path := assets.resolve(model.name_or_path), WHOLE_FILE, model.revision
    ):
        return True
    file = cached_file(path, WHOLE_FILE, revision=model.revision, local_files_only=True)
    plain = Tokenizer.from_file(str(file))
    plain.no_padding()
    plain.no_truncation()
    size = plain.get_vocab_size(with_added_tokens=False)
    texts = [
        plain.decode(list(range(first, min(first + PROBE_TOKENS, size))))
        for first in range(0, size, max(size // PROBES, 1))
    ]
    texts = [text for text in texts if text.strip()]
    same = sum(
        plain.encode(text, add_special_tokens=False).ids
        == tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in texts
    )
    return 2 * same >= len(texts)


def _is_there(path: str, name: str, revision: str | None) -> bool:
    try:
        found = cached_file(
            path,
            name,
            revision=revision,
            local_files_only=True,  # it has just been loaded
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return False
    return found is not None and Path(found).stat().st_size > 0
