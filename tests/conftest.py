"""Tiny models, and the same in the hub's own format on disk. Nothing here needs a network."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers

from sparselora import run as run_module
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.config import SparsityConfig

# Odd widths on purpose; f < 512, so widths are not rounded to 16.
_COMMON: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 60,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_DECODER = _COMMON | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
TINY: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("bert", "camembert", "deberta-v2", "mpnet", "roberta", "xlm-roberta"), _COMMON
    ),
    "distilbert": {
        "dim": 24,
        "hidden_dim": 37,
        "n_layers": 3,
        "n_heads": 4,
        "vocab_size": 60,
        "max_position_embeddings": 128,
    },
    "electra": _COMMON | {"embedding_size": 24},
    "gemma": _DECODER | {"head_dim": 6},
    "gpt2": {
        "n_embd": 24,
        "n_inner": 37,
        "n_layer": 3,
        "n_head": 4,
        "vocab_size": 60,
        "n_positions": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama": _DECODER | {"mlp_bias": True},
    "mistral": _DECODER,
    "modernbert": _COMMON
    | {
        "mlp_bias": True,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "opt": {
        "hidden_size": 24,
        "word_embed_proj_dim": 24,
        "ffn_dim": 37,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 60,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "phi3": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER | {"head_dim": 6},
    "smollm3": _DECODER,
}


def tiny_config(model_type: str, dropout: float = 0.0, **changes: Any) -> Any:
    """A tiny architecture whose dropouts, but for those inside an FFN, all have one rate."""
    config = transformers.AutoConfig.for_model(model_type, num_labels=3, **TINY[model_type])
    for name, value in config.to_dict().items():
        rate = "dropout" in name or "pdrop" in name or name == "layerdrop"
        if rate and name != "mlp_dropout" and isinstance(value, float | int):
            setattr(config, name, 0.0 if name == "layerdrop" else dropout)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def tiny_model(model_type: str, dropout: float = 0.0, **changes: Any) -> PeftModel:
    """A seeded tiny classifier with LoRA on its attention; LoRA's B is not zero, as after training."""
    torch.manual_seed(0)
    config = tiny_config(model_type, dropout, **changes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    row = ARCHITECTURES[model_type]
    adapted = get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=4,
            lora_dropout=dropout,
            target_modules=sorted(set(row.attention)),
            modules_to_save=list(row.head),
            init_lora_weights=False,
        ),
    )
    return adapted.train()


def tiny_batch(rows: int = 4, length: int = 9, padded: bool = True) -> dict[str, torch.Tensor]:
    """Token ids with ragged padding on the right, and labels."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 60, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded:
        for row in range(rows):
            mask[row, length - row % 4 :] = 0
    return {
        "input_ids": input_ids * mask,
        "attention_mask": mask,
        "labels": torch.arange(rows) % 3,
    }


WORDS = [
    "good",
    "fine",
    "great",
    "warm",
    "bright",
    "bad",
    "poor",
    "cold",
    "dull",
    "grim",
    "a",
    "the",
    "film",
    "story",
    "and",
    "of",
    "is",
    "was",
]


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of six layers with its tokenizer, as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(**(TINY["bert"] | {"num_hidden_layers": 6}))
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def sentences(rows: int) -> pd.DataFrame:
    """Short sentences whose label is the kind of their adjectives; six films."""
    generator = torch.Generator().manual_seed(2)
    lines = []
    for index in range(rows):
        first = 0 if index % 2 else 5
        words = torch.randint(first, first + 5, (3,), generator=generator).tolist()
        filler = torch.randint(10, len(WORDS), (1 + index % 6,), generator=generator).tolist()
        lines.append(" ".join(WORDS[word] for word in [*filler, *words]))
    return pd.DataFrame(
        {
            "sentence": lines,
            "kind": ["up" if index % 2 else "down" for index in range(rows)],
            "film": [f"film {index % 30}" for index in range(rows)],
        }
    )


@pytest.fixture(scope="session")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 240 labelled sentences."""
    path = tmp_path_factory.mktemp("data") / "lines.csv"
    sentences(240).to_csv(path, index=False)
    return path


@pytest.fixture
def tiny_overrides(hub_folder: Path, table_file: Path) -> list[str]:
    """What makes a run tiny: model, data and budget."""
    return [
        "model.name=tiny",
        f"model.name_or_path={hub_folder}",
        "data=table",
        f"data.path={table_file}",
        "data.text_column=sentence",
        "data.label_column=kind",
        "data.group_column=film",
        "train.batch_size=8",
        "train.max_steps=10",
        "measure.eval_every=5",
        "train.threads=1",
        "measure.timing=none",
    ]


def plain(**changes: Any) -> SparsityConfig:
    """Plain SVD, the same in every layer, sparse from the first step: what most tests are of."""
    return replace(_PLAIN, **changes)


_PLAIN = SparsityConfig(
    ffn_sparsity=0.65,
    rule="uniform",
    svd_rank=8,
    estimator="svd",
    estimator_weighted=False,
    estimator_tokens=128,
    sparse_warmup_ratio=0.0,
    seed=0,
)


def word_tokenizer(chat_template: str | None = None) -> Any:
    """A word is a token."""
    special = ["<pad>", "<unk>", "<eos>", "<user>", "<model>", "<end>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<model>", "<end>"],
        chat_template=chat_template,
    )


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of four layers with a tokenizer of words, in the hub's own format."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-llama"
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = TINY["llama"] | {"num_hidden_layers": 4, "vocab_size": len(tokenizer)}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def decoder_overrides(decoder_folder: Path, table_file: Path) -> list[str]:
    """What makes the run of a decoder tiny."""
    return [
        "task=causal_lm",
        "model.name=tiny",
        f"model.name_or_path={decoder_folder}",
        "data=table",
        f"data.path={table_file}",
        'data.prompt_template="{sentence} is"',
        'data.completion_template="{kind}"',
        "data.group_column=film",
        "schedule=deeper",
        "ffn_sparsity=0.3",
        "estimator=svd",
        "svd_rank=3",
        "train.max_steps=10",
        "measure.eval_every=5",
        "measure.eval_rows=20",
        "train.threads=1",
        "measure.timing=none",
    ]


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def message(self) -> list[str]:
        """The lines on standard error, progress bars left out."""
        lines = re.split(r"[\r\n]+", self.err)
        return [
            line for line in lines if line.strip() and not re.search(r"%\|| 0(step|round)", line)
        ]

    def records(self) -> list[dict[str, Any]]:
        """Every record below the folder, in the order of their paths."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.rglob("record.json"))]


@pytest.fixture
def invoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """`sparselora.run.main`, or another's, in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*arguments: str, main: Callable[[], int] = run_module.main) -> Outcome:
        before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
        monkeypatch.setattr(sys, "argv", ["sparselora", *arguments])
        capfd.readouterr()
        try:
            code = main()
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
            os.environ["HYDRA_FULL_ERROR"] = "0"
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err, tmp_path)

    return run
