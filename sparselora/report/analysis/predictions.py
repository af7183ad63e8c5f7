"""What the runs of one comparison answered, line by line, and which runs cannot tell."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from sparselora.report.analysis.statistics import Answers, Bootstrap, load_answers

SAME_ACCURACY = 1e-4
"""Beyond this a record and its predictions are not of one evaluation."""


def limited_runs(runs: pd.DataFrame, problems: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """`folder` and `problem` of the runs that `problems` names, by setting and seed."""
    rows = [
        {"folder": folder, "problem": problems[key, seed]}
        for folder, key, seed in zip(runs["folder"], runs["setting"], runs["seed"], strict=True)
        if (key, seed) in problems
    ]
    return pd.DataFrame(rows, columns=["folder", "problem"])


def answers_of(
    runs: pd.DataFrame,
) -> tuple[dict[tuple[str, int], Answers], dict[tuple[str, int], str]]:
    """By setting and seed: what each run answered, or why it is not taken from its predictions."""
    folders = [Path(str(folder)) for folder in runs["folder"]]
    # Reading and decoding let other threads run; more of them than cores only wait for each other.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(load_answers, folders))
    keys = zip(runs["setting"].astype(str), runs["seed"].astype(int), strict=True)
    answers, problems = {}, {}
    for key, each, accuracy in zip(keys, found, runs["accuracy"], strict=True):
        if each is None:
            problems[key] = "no interval: its predictions are missing, or cannot be read"
        elif abs(float(each.correct.mean()) - accuracy) > SAME_ACCURACY:
            share = f"{each.correct.mean():.4f}"
            problems[key] = f"no interval: its predictions say {share}, its record {accuracy:.4f}"
        else:
            answers[key] = each
    return answers, problems


def bootstrap_of(answers: Mapping[tuple[str, int], Answers]) -> Bootstrap | None:
    """Over the lines that most runs answered; None where no run has any."""
    if not answers:
        return None
    splits: dict[bytes, list[Answers]] = {}
    for each in answers.values():
        splits.setdefault(each.examples.tobytes(), []).append(each)
    one = max(splits.values(), key=len)[0]
    return Bootstrap(one.examples, one.groups)
