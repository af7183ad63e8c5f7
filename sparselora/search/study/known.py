"""Tell when two settings are the same run, so that it need not be done twice."""

import hashlib
import json
from pathlib import Path

from sparselora.config.identity import content_hash
from sparselora.config.schema import RunConfig
from sparselora.paths import PACKAGE


def fingerprint(run: RunConfig, device: str, threads: int) -> str | None:
    """Return what two runs share only if config, data, weights, code and device are the same.

    None for a dirty tree, one whose state git does not tell, and data that a function makes. Data and
    weights of the hub and of the package are compared by names and revisions, those on this disk by the
    size and time of each file too.

    Args:
        run: its settings.
        device: what the hardware calls itself.
        threads: of the CPU.
    """
    from sparselora.data.sources import PREFIX
    from sparselora.machine.provenance import git_state, package_versions

    if run.data.path.startswith(PREFIX):
        return None  # nobody can tell whether a function would give the same rows again
    git = git_state()
    unknown = git["commit"] is None and (PACKAGE.parent / ".git").exists()
    if git["dirty"] or unknown:
        return None
    content = {
        "config": content_hash(run),
        "code": git["commit"],
        "versions": package_versions(),
        "device": [device, threads],
        "files": [
            _state(Path(path).expanduser()) for path in (run.data.path, run.model.name_or_path)
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[tuple[str, int, int]]:
    if not path.exists():
        return []
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
