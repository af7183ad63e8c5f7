"""Tell what a model can be fine-tuned to do: a table, one row a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import transformers
from peft import TaskType
from torch import Tensor, nn

from sparselora.data.batches import TokenizedSplit, tokenize
from sparselora.data.splits import Split
from sparselora.data.templates import template_end
from sparselora.model.causal_lm import (
    CompletionReader,
    completion_loss,
    tokenize_completions,
)
from sparselora.model.classification import ClassReader
from sparselora.model.reader import Reader

if TYPE_CHECKING:
    from sparselora.config.schema import RunConfig


@dataclass(frozen=True)
class Task:
    """Describe one task, whose name is in `groups.TASKS`."""

    auto_model: Any
    """transformers' class that loads a model for it."""
    peft_type: TaskType
    trains_head: bool
    """Whether the model's head is new, and trains."""
    tokenize: Callable[[Any, Split, "RunConfig"], TokenizedSplit]
    """(tokenizer, split, run) → its rows as tokens."""
    reader: Callable[[Any], Reader]
    """tokenizer → what reads a model's outputs in an evaluation."""
    loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor] | None
    """(model, batch) → the loss that the model itself would give, faster; None where it gives it."""


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "classification": Task(
            auto_model=transformers.AutoModelForSequenceClassification,
            peft_type=TaskType.SEQ_CLS,
            trains_head=True,
            tokenize=lambda tokenizer, split, run: tokenize(tokenizer, split, run.data.max_length),
            reader=lambda tokenizer: ClassReader(),
            loss=None,
        ),
        "causal_lm": Task(
            auto_model=transformers.AutoModelForCausalLM,
            peft_type=TaskType.CAUSAL_LM,
            trains_head=False,
            tokenize=lambda tokenizer, split, run: tokenize_completions(
                tokenizer,
                split,
                run.data.max_length,
                run.task.chat_template,
                template_end(run.data.prompt_template or ""),
            ),
            reader=CompletionReader,
            loss=completion_loss,
        ),
    }
)
