"""Name the user attributes under which a study and its trials keep what Optuna does not.

A process that finds a trial knows by them whose it was, where its run wrote, and whether it counts.
"""

NAMED = "named"
"""The named setting that the trial is of; one that is drawn has none."""
LABEL = "label"
PROCESS = "process"
"""The process that asked for the trial; see `sparselora.machine.process.identity`."""
FOLDER = "folder"
REASON = "reason"
"""Why the trial failed."""
ENDED = "ended"
"""How often its process ended before it did, and it was put back to be begun again."""
DUPLICATE_OF = "duplicate_of"
"""The number of another trial that answered it: such a one does not count."""
FINGERPRINT = "known_by"
"""Equal for two trials that are the same run; see `sparselora.search.study.known`."""
OVERRIDES = "overrides"

BASE = "base"
"""Of the study: the settings that all its trials share."""
FLOOR = "floor"
"""Of the study: its limits on accuracy."""
DEVICE = "device"
"""Of the study, and of each of its trials."""
