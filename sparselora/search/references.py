"""The study's dense reference: the first stock time that any process told is everyone's."""

from pathlib import Path

from optuna import Study

from sparselora.record import RECORD_NAME, read_record, write_record
from sparselora.reference import write_references

DENSE_REFERENCES = "dense_references"
"""User attribute of the study: `reference_key` → ms."""


def hand_out(study: Study, folder: Path) -> None:
    """Put the study's figures where the runs of a sweep folder look for theirs."""
    held = study.user_attrs.get(DENSE_REFERENCES)
    if held:
        write_references(folder, held)


def agree(study: Study, folder: Path) -> None:
    """Make a finished run's figure the study's, or the study's the run's; under the storage's lock.

    Two processes that begin a study at one time each time stock LoRA for themselves. The record of the
    one that is told later is brought to the earlier one's figure, so that record and trial say the same.
    """
    record = read_record(folder)
    key = None if record is None else record.get("dense_reference_key")
    if record is None or key is None:
        return
    held = dict(study.user_attrs.get(DENSE_REFERENCES, {}))
    if key not in held:
        held[key] = record["dense_reference_ms"]
        study.set_user_attr(DENSE_REFERENCES, held)
    elif held[key] != record["dense_reference_ms"]:
        record["dense_reference_ms"] = held[key]
        record["ms_per_step"] = held[key] / record["timing"]["speedup"]
        write_record(folder / RECORD_NAME, record)
