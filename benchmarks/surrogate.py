"""Does the search beat random draws? On a surrogate without noise, at an equal budget.

    python benchmarks/surrogate.py            five seeds, 40 trials each way

The space, the named trials, the study and the samplers are those of `+sweep=tradeoff`; in place of a run
stands a formula whose shape follows what was measured: sparse layers cost accuracy faster than they save
time, late layers and better estimators cost less. Prints the hypervolume over (accuracy 0.7, 100 ms) by
seed, and writes `docs/results/surrogate.csv`.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import yaml
from common import arguments, write_rows
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sparselora.cli import hydra_setup
from sparselora.config.checks import check_model, parse_config
from sparselora.config.schema import RunConfig
from sparselora.paths import CONF
from sparselora.runs.checks import user_keys
from sparselora.search.space.effective import key_of, remembered
from sparselora.search.space.samplers import sampler_factory
from sparselora.search.space.space import Space
from sparselora.search.study.attributes import NAMED
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.storage import Storage
from sparselora.search.study.study import SharedStudy
from sparselora.sparse.backbone.model_shape import ModelShape

MINILM = ModelShape(num_layers=6, hidden_size=384, intermediate_size=1536)
FLOOR, CEILING = 0.70, 100.0
GROUPS = ("schedule", "estimator", "compensation", "experiment")
LOSS = {"svd": 0.10, "whitened": 0.06, "static": 0.055}
"""Of accuracy, at a sparsity of 1 in every layer."""


def surrogate(run: RunConfig, sparsities: Sequence[float]) -> tuple[float, float]:
    """Return accuracy and ms/step of a setting, without noise."""
    depth = len(sparsities)
    weights = [1.4 - 0.8 * layer / (depth - 1) for layer in range(depth)]
    harm = sum(w * s**2.5 for w, s in zip(weights, sparsities, strict=True)) / depth
    harm *= LOSS[run.estimator.name]
    mean, time = sum(sparsities) / depth, 84.0
    if run.svd_rank is not None:
        harm *= 1.0 + 1.0 / run.svd_rank
        time += 0.3 * run.svd_rank * (mean > 0)
    if run.compensation.name == "lowrank":
        harm *= 0.7
        time += 1.5
    harm *= 1.15 - run.sparse_warmup_ratio
    return 0.79 - harm, time - 0.56 * 84.0 * mean


@functools.cache
def composed(groups: tuple[str, ...]) -> DictConfig:
    """Compose a choice of groups, once, since composing is what takes time."""
    with initialize_config_dir(str(CONF)):
        return compose("config", list(groups))


@remembered
def check(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
    """Check a setting as the search does, on the embedded model's sizes."""
    config = copy.deepcopy(composed(tuple(one for one in overrides if key_of(one) in GROUPS)))
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in GROUPS:
            OmegaConf.update(config, key, yaml.safe_load(value))
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    return run, check_model(run, MINILM, keys)


def search(sampler: str, seed: int, trials: int) -> float:
    """Search once, and return the hypervolume."""
    with initialize_config_dir(str(CONF)):
        options = ["+sweep=tradeoff", f"hydra/sweeper/sampler={sampler}"]
        settings = compose("config", options, return_hydra_config=True).hydra.sweeper
    space = Space.parse(settings.params, [])
    make_sampler, _ = sampler_factory(settings.sampler, space)
    plan = Plan(
        "surrogate", ["accuracy", "ms_per_step"], trials, list(settings.named), seed, make_sampler
    )
    study = SharedStudy(Storage(None), plan)
    points = []
    while (trial := study.ask()) is not None:
        name = trial.user_attrs.get(NAMED)
        setting = (
            space.draw(trial, check, study.reseed) if name is None else space.named(name, check)
        )
        points.append(surrogate(*check(setting)))
        study.tell(trial.number, Outcome(list(points[-1]), None, {"accuracy": points[-1][0]}))
    return hypervolume(points)


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Return the area that points dominate above `FLOOR` and below `CEILING`, in accuracy × ms."""
    area, reached = 0.0, FLOOR
    by_time: list[tuple[float, float]] = sorted(points, key=lambda point: (point[1], -point[0]))
    for accuracy, ms in by_time:
        if accuracy > reached and ms < CEILING:
            area += (accuracy - reached) * (CEILING - ms)
            reached = accuracy
    return area


def main() -> None:
    """Search both ways, seed by seed."""
    parser = arguments(__doc__, "surrogate.csv")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    hydra_setup.install()
    rows: list[dict[str, Any]] = []
    for seed in range(1, options.seeds + 1):
        found = {name: search(name, seed, options.trials) for name in ("tpe", "random")}
        rows.append({"seed": seed, **{name: round(value, 4) for name, value in found.items()}})
        print(rows[-1], flush=True)
    write_rows(options.out, rows)
    won = sum(row["tpe"] > row["random"] for row in rows)
    print(f"the search's hypervolume is the larger in {won} of {len(rows)} seeds")


if __name__ == "__main__":
    main()
