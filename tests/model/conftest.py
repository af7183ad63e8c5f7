import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.conftest import tiny_config, word_tokenizer


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each architecture: its backbone's weights and a tokenizer of words."""
    root, made = tmp_path_factory.mktemp("saved"), {}

    def save(model_type: str) -> Path:
        if model_type not in made:
            folder = root / model_type
            torch.manual_seed(0)
            config = tiny_config(model_type)
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(
                folder
            )
            word_tokenizer().save_pretrained(folder)
            made[model_type] = folder
        return made[model_type]

    return save


@pytest.fixture
def copy(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """One that a test may spoil."""
    return lambda model_type: Path(shutil.copytree(saved(model_type), tmp_path / model_type))
