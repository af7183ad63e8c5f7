"""Look at a model's folder before anything of it is read: a usual mistake is one line."""

from pathlib import Path

from sparselora.config.groups import ModelConfig
from sparselora.data import assets
from sparselora.errors import UserError

POINTER = b"version https://git-lfs"
"""What a file of git-lfs begins with that was not fetched."""
SMALL = 1024
"""Bytes that such a file has at most."""


def check_folder(model: ModelConfig) -> None:
    """Check that `model.name_or_path`, where it is one of this machine, holds a whole model.

    Raises:
        UserError: there is no such folder, it is a file, it holds an adapter, or files that are pointers
            of git-lfs alone, or no config.
    """
    name = model.name_or_path
    if name.startswith(assets.PREFIX):
        return
    where, path = f"model.name_or_path={name}", Path(name).expanduser()
    if not path.exists():
        if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
            raise UserError(
                f"{where}: no such folder; a local folder, a hub name (with network), asset:minilm or "
                "asset:smollm2 is allowed"
            )
        return  # a name on the hub
    if path.is_file():
        raise UserError(f"{where}: is a file; the folder of a model is needed")
    for file in sorted(path.iterdir()):
        if file.is_file() and file.stat().st_size <= SMALL and _begins_as_pointer(file):
            raise UserError(
                f"{where}: {file.name} is a pointer of git-lfs, not the file itself; `git lfs pull` in "
                "that folder fetches it"
            )
    if (path / "adapter_config.json").exists():
        raise UserError(
            f"{where}: holds a PEFT adapter (adapter_config.json); the model itself is needed: merge the "
            "adapter into it (merge_and_unload, then save_pretrained into a folder of its own), or give "
            "its base model"
        )
    if model.gguf_file is None and not (path / "config.json").exists():
        raise UserError(
            f"{where}: has no config.json; a folder that save_pretrained made is needed"
        )


def _begins_as_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(POINTER)) == POINTER
