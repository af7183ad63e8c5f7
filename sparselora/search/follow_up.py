"""Follow the original study's plan: what it tries next, by what came out, and its verdict.

After `dense`, `original` and `optimized`: where `optimized` loses too much accuracy, `fallback`; and
where the one to be used is still not faster than stock LoRA, the same without the SVD,
`estimator=static`.
"""

from optuna.trial import FrozenTrial, TrialState

from sparselora.search.study.attributes import NAMED
from sparselora.search.study.study import SharedStudy

WITHOUT_SVD = "estimator=static"
_STEPS = (
    f"fallback {WITHOUT_SVD}",
    f"optimized {WITHOUT_SVD}",
    "fallback",
    "optimized",
)
"""The last that was taken is the one that the plan comes to."""
FASTER = 1 / 0.9
"""Speed-up over stock LoRA that the study wanted: a tenth less time a step."""


def follow_up(study: SharedStudy) -> list[str]:
    """Return the named settings that the plan asks for next.

    None where it is at its end, or another process is at its next step. To be called under the storage's
    lock, with no budget left.
    """
    chosen = _chosen(study)
    if chosen is None:
        return []
    name, trial = chosen
    states = {one.user_attrs.get(NAMED): one.state for one in study.trials}
    for step in _STEPS[:-1]:
        # Asked for by a process that died before its budget was there; or another's to finish.
        if states.get(step) is TrialState.WAITING:
            return [step]
        if states.get(step) is TrialState.RUNNING:
            return []
    if name == "optimized" and _loses_too_much(study, trial) and "fallback" not in states:
        return ["fallback"]
    next_one = f"{name} {WITHOUT_SVD}"
    if WITHOUT_SVD not in name and not _is_faster(trial) and next_one not in states:
        return [next_one]
    return []


def verdict(study: SharedStudy) -> list[str]:
    """Return a line for each target: what was wanted, what was measured, met or not."""
    chosen = _chosen(study)
    if chosen is None:
        return ["no verdict: dense and optimized have to come to an end first"]
    name, trial = chosen
    floor, attributes = study.accuracy_floor(), trial.user_attrs
    accuracy, ms, speedup = (attributes.get(key) for key in ("accuracy", "ms_per_step", "speedup"))
    lines = [f"the setting that the plan comes to: {name}"]
    if speedup is not None and ms is not None:
        interval = ""
        if "speedup_low" in attributes:
            interval = f" ({attributes['speedup_low']:.2f} to {attributes['speedup_high']:.2f})"
        least = attributes.get("speedup_low", speedup)
        most = attributes.get("speedup_high", speedup)
        lines.append(
            f"at least {FASTER:.2f} × stock LoRA: {speedup:.2f} ×{interval}, {ms:.1f} ms/step: "
            f"{_judged(least >= FASTER, most < FASTER)}"
        )
    if floor is not None and accuracy is not None:
        seeds = len(attributes.get("seeds", [None]))
        lines.append(
            f"accuracy of at least {floor:.4f}: {accuracy:.4f}, {seeds} seed{'s' * (seeds > 1)}: "
            f"{_judged(accuracy >= floor, accuracy < floor)}"
        )
    return lines


def _judged(met: bool, missed: bool) -> str:
    if met:
        return "met"
    return "not met" if missed else "not shown: the interval holds the target"


def _chosen(study: SharedStudy) -> tuple[str, FrozenTrial] | None:
    """Return the last step of the plan that was taken: optimized, fallback, or one without the SVD."""
    done = {
        str(trial.user_attrs[NAMED]): trial
        for trial in study.trials
        if trial.state is TrialState.COMPLETE and NAMED in trial.user_attrs
    }
    if "dense" not in done or "optimized" not in done:
        return None
    for name in _STEPS:
        if name in done:
            return name, done[name]
    return None


def _loses_too_much(study: SharedStudy, trial: FrozenTrial) -> bool:
    floor = study.accuracy_floor()
    return floor is not None and float(trial.user_attrs["accuracy"]) < floor


def _is_faster(trial: FrozenTrial) -> bool:
    least = trial.user_attrs.get("speedup_low", trial.user_attrs.get("speedup"))
    return least is not None and float(least) > 1.0
