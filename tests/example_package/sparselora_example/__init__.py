"""A package of its own: an estimator, an architecture and a data set, none of which sparselora has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import sparselora

sparselora.register_configs(Path(__file__).parent / "conf")


def row_norms(block: Any, config: Any, moments: Any) -> Any:
    """Score each channel by the norm of its row of lin1, whatever the batch."""
    from sparselora.sparse.channels.ffn_estimators import FixedEstimator

    return FixedEstimator(block.lin1.weight.detach().float().norm(dim=1))


sparselora.register_estimator("row_norms", row_norms, fixed=True)

sparselora.register_architecture(
    "ernie", replace(sparselora.ARCHITECTURES["bert"], picks_first_token="ernie.pooler")
)


def read_parity(config: Any) -> Any:
    """Return numbers in words, which are even or odd."""
    import pandas as pd

    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows = [
        {"text": f"{digits[tens]} {digits[ones]}", "kind": "odd" if ones % 2 else "even"}
        for tens in range(10)
        for ones in range(10)
    ]
    return {"all": pd.DataFrame(rows)}


sparselora.register_dataset("parity", read_parity)
