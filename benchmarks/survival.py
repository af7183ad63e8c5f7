"""Does a search survive? It is killed with SIGKILL at many moments, and started again each time.

    python benchmarks/survival.py              twenty kills
    python benchmarks/survival.py --kills 6    a shorter one

The model is tiny and untrained; the task function, the sweeper and the storage are the real ones. In the
end there must be exactly N finished trials, each with its record and its values, none lost, none doubled,
nothing left running, no job folder written twice, and the very course of a search that was never killed.
Ends with exit code 1 where one of these does not hold. Needs `os.fork`.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from common import arguments
from optuna.trial import FrozenTrial, TrialState

from sparselora import run
from sparselora.machine.provenance import git_state
from sparselora.records import record
from sparselora.runs import setup
from sparselora.search import launching, search
from sparselora.search.study import attributes, recovery, study

TRIALS, STEPS = 12, 20
STORAGE = "sqlite:///study.db"
KINDS = (("good", "fine", "great", "warm"), ("bad", "poor", "cold", "dull"))
FILLERS = ("a", "the", "film", "story", "and", "of", "is", "was")


class Moment(NamedTuple):
    """Name a call of a function, and whether the kill comes after it or before."""

    owner: Any
    name: str
    after: bool
    call: int = 1


TRIAL, STUDY, RECORD, SHARED = optuna.trial.Trial, optuna.Study, record.RunRecord, study.SharedStudy
MOMENTS: dict[str, Moment] = {
    "the study is made, its named trials are not": Moment(optuna, "create_study", True),
    "a named trial is enqueued, the next is not": Moment(STUDY, "enqueue_trial", True),
    "before ask": Moment(STUDY, "ask", False),
    "asked, not yet stamped": Moment(STUDY, "ask", True),
    "a named trial trains": Moment(RECORD, "add_step", True, 3),
    "a named trial is put back": Moment(recovery, "put_back", True),
    "drawing": Moment(TRIAL, "suggest_categorical", True),
    "drawn, before the launch": Moment(launching.JobLauncher, "run", False),
    "the record is begun": Moment(RECORD, "__init__", True),
    "before the model is loaded": Moment(setup, "load_model", False),
    "the first step is trained": Moment(RECORD, "add_step", True),
    "while a dead trial is released": Moment(recovery, "release", False),
    "the last step is trained": Moment(RECORD, "add_step", True, STEPS),
    "while predictions are written": Moment(RECORD, "add_predictions", False),
    "before the record is closed": Moment(RECORD, "end", False),
    "the record is complete, the run has not returned": Moment(RECORD, "end", True),
    "the job has returned, its record is not read": Moment(SHARED, "outcome", False),
    "before tell": Moment(SHARED, "tell", False),
    "between a trial's attributes and tell": Moment(STUDY, "tell", False),
    "told": Moment(STUDY, "tell", True),
    "told, before the next ask": Moment(search.Search, "_stop_on_failures", False),
}


def overrides() -> list[str]:
    """Return the command of a search over a tiny BERT, with objectives that have no noise."""
    sizes = "model_type: bert, hidden_size: 24, intermediate_size: 40, num_hidden_layers: 6"
    return [
        "-m",
        "+sweep=tradeoff",
        "measure=accuracy",
        "hydra.sweeper.objectives=[accuracy,gflops_per_step]",
        f"hydra.sweeper.n_trials={TRIALS}",
        "hydra.sweeper.max_interruptions=100",
        f"hydra.sweeper.storage={STORAGE}",
        "model=distilbert-random",
        f"model.init_config={{{sizes}, num_attention_heads: 4}}",
        "data=table",
        "data.path=lines.csv",
        "train.batch_size=8",
        f"train.max_steps={STEPS}",
        "train.threads=1",
        "measure.eval_every=null",
        "calibration.batches=1",
    ]


def write_data(folder: Path) -> None:
    """Write examples whose label is the kind of their words."""
    draw = random.Random(1)
    lines = ["text,label"]
    for index in range(160):
        words = draw.choices(KINDS[index % 2], k=2) + draw.choices(FILLERS, k=6)
        lines.append(f"{' '.join(words)},{index % 2}")
    (folder / "lines.csv").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def killed(moment: Moment) -> Iterator[None]:
    """Let this process die at that moment, within the block."""
    owner, name, after, call = moment
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*positional: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*positional, **named)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
    try:
        yield
    finally:
        setattr(owner, name, original)


def command(folder: Path, arguments: list[str], moment: Moment | None = None) -> int:
    """Run the command in a forked process, and return its exit code; −9 where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            with (folder / "output.log").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            sys.argv = ["sparselora", *arguments]
            with killed(moment) if moment else contextlib.nullcontext():
                code = run.main()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trials_of(folder: Path) -> list[FrozenTrial]:
    """Return the trials that the study holds."""
    storage = f"sqlite:///{folder / 'study.db'}"
    return optuna.load_study(study_name="tradeoff", storage=storage).get_trials()


def complete_records(folder: Path) -> dict[str, str]:
    """Return a hash of each complete record, by its path."""
    found = {}
    for path in folder.glob("outputs/**/record.json"):
        text = path.read_text()
        if json.loads(text)["status"] == "completed":
            found[str(path)] = hashlib.sha256(text.encode()).hexdigest()
    return found


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that the budget counts."""
    return [
        trial
        for trial in trials
        if trial.state.is_finished() and trial.user_attrs.get(attributes.DUPLICATE_OF) is None
    ]


def course(trials: list[FrozenTrial]) -> list[tuple[Any, list[float] | None]]:
    """Return what was run and what it gave, trial by trial."""
    return [
        (
            trial.user_attrs.get(attributes.NAMED) or trial.user_attrs.get(attributes.OVERRIDES),
            trial.values,
        )
        for trial in trials
    ]


def problems(
    folder: Path, seen: dict[str, str], undisturbed: list[tuple[Any, list[float] | None]]
) -> list[str]:
    """Return what does not hold at the end."""
    found = []
    trials = trials_of(folder)
    finished = counted(trials)
    if len(finished) != TRIALS:
        found.append(f"{len(finished)} finished trials, not {TRIALS}")
    open_ones = [trial.number for trial in trials if not trial.state.is_finished()]
    if open_ones:
        found.append(f"left open: trials {open_ones}")
    if any(trial.state is not TrialState.COMPLETE for trial in finished):
        found.append("a trial that counts has failed")
    named = sorted(str(trial.user_attrs.get(attributes.NAMED)) for trial in finished)
    if named.count("None") != TRIALS - 4 or len(set(named)) != 5:
        found.append(f"named trials: {named}")
    records = complete_records(folder)
    folders = [str(Path(trial.user_attrs[attributes.FOLDER]) / "record.json") for trial in finished]
    if sorted(folders) != sorted(records):
        found.append(f"{len(records)} complete records, told are {len(set(folders))} of them")
    for trial, path in zip(finished, folders, strict=True):
        content = json.loads(Path(path).read_text())
        if content["metrics"]["validation"]["accuracy"] != trial.values[0]:
            found.append(f"trial {trial.number} was told another accuracy than its record has")
    changed = [path for path, digest in seen.items() if records.get(path) != digest]
    if changed:
        found.append(f"written twice: {changed}")
    for killed, calm in zip_longest(course(trials), undisturbed):
        if killed != calm:
            found.append(f"{killed} is, in a search that was never killed, {calm}")
            break
    return found


def main() -> int:
    """Kill, start again, and look at what is left."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--kills", type=int, default=20, choices=range(1, len(MOMENTS) + 1), metavar="N"
    )
    kills = parser.parse_args().kills
    began = time.perf_counter()
    git_state()  # asked once, for all processes: a commit meanwhile would change what is re-used
    with tempfile.TemporaryDirectory() as name:
        calm, folder = Path(name) / "calm", Path(name) / "killed"
        for one in (calm, folder):
            one.mkdir()
            write_data(one)
        if command(calm, overrides()):
            print((calm / "output.log").read_text()[-2000:])
            return 1
        undisturbed = course(trials_of(calm))
        seen: dict[str, str] = {}
        done = 0
        for title, moment in list(MOMENTS.items())[:: max(1, len(MOMENTS) // kills)][:kills]:
            code = command(folder, overrides(), moment)
            if code != -signal.SIGKILL:
                print((folder / "output.log").read_text()[-2000:])
                print(f"not killed, exit code {code}: {title}")
                return 1
            done += 1
            states = [trial.state.name.lower() for trial in trials_of(folder)]
            there = {state: states.count(state) for state in sorted(set(states))}
            print(f"killed {done:2}: {title}: {there}", flush=True)
            for path, digest in complete_records(folder).items():
                seen.setdefault(path, digest)
        code = command(folder, overrides())
        found = problems(folder, seen, undisturbed)
        for line in found:
            print(f"does not hold: {line}")
        again = sum(trial.user_attrs.get(attributes.ENDED, 0) for trial in trials_of(folder))
        print(
            f"{done} kills, {TRIALS} trials, {again} times one was begun again, exit code {code}, "
            f"{len(found)} problems, {time.perf_counter() - began:.0f} s"
        )
    return 1 if found or code else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
