"""Share between the runs of a study one dense reference, and the front that tells a hopeless setting."""

from collections.abc import Sequence
from pathlib import Path

from optuna import Study

from sparselora.records.record import RECORD_NAME, read_record, write_record
from sparselora.records.reference import write_references
from sparselora.runs.repeats import write_front

DENSE_REFERENCES = "dense_references"
"""User attribute of the study: key of a reference → its milliseconds."""


def hand_out(study: Study, folder: Path, front: Sequence[tuple[float, float]]) -> None:
    """Write what the study knows where the runs of a sweep folder look for it.

    Args:
        study: with the dense references so far.
        folder: of the sweep; made if need be.
        front: accuracy and ms/step of its settings; empty where the study does not search for these.
    """
    references = study.user_attrs.get(DENSE_REFERENCES)
    if references:
        write_references(folder, references)
    if front:
        write_front(folder, front)


def agree(study: Study, folder: Path) -> None:
    """Make a finished job's figure the study's, or the study's the job's; under the storage's lock.

    Two processes that begin a study at one time each time stock LoRA for themselves. The record of the
    one that is told later is brought to the earlier one's figure, so that record and trial say the same.
    """
    for run in (folder, *sorted(folder.glob("seed_*"))):
        _agree(study, run)


def _agree(study: Study, folder: Path) -> None:
    record = read_record(folder)
    if record is None or record.dense_reference_key is None:
        return
    key, own = record.dense_reference_key, record.dense_reference_ms
    references = dict(study.user_attrs.get(DENSE_REFERENCES, {}))
    if key not in references:
        references[key] = own
        study.set_user_attr(DENSE_REFERENCES, references)
    elif references[key] != own:
        assert record.timing is not None
        assert record.timing.speedup is not None
        record.dense_reference_ms = references[key]
        record.ms_per_step = references[key] / record.timing.speedup
        write_record(folder / RECORD_NAME, record)
