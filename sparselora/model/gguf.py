"""Unpack weights in llama.cpp's format, once, into transformers' own.

To read such a file transformers parses its vocabulary and de-quantizes every weight, which takes most
of a minute for a small model, each time. What comes out is kept in the cache folder, four bytes a weight.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

from sparselora.model.weight_checks import check_loaded
from sparselora.paths import cache_folder


def unpacked(folder: str, gguf_file: str) -> str | None:
    """Return a folder in transformers' format with the same model and tokenizer, made at the first call.

    Args:
        folder: that holds the file; where it is none of this machine, nothing is unpacked.
        gguf_file: its name there.

    Returns:
        None where there is no such local file, or the cache cannot be written.

    Raises:
        OSError, ValueError: transformers cannot read it, or it does not hold the whole model.
    """
    file = Path(folder) / gguf_file
    if not file.is_file():
        return None
    stat = file.stat()
    versions = (transformers.__version__, str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    key = hashlib.sha256(repr(versions).encode()).hexdigest()[:16]
    made = cache_folder() / "gguf" / f"{file.stem}-{key}"
    if made.is_dir():
        return str(made)
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{made}.lock")
        lock.acquire()
    except OSError:
        return None
    with lock:
        if not made.is_dir():
            _unpack(folder, gguf_file, made)
    return str(made)


def _unpack(folder: str, gguf_file: str, made: Path) -> None:
    source: dict[str, Any] = {"gguf_file": gguf_file}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **source)
    read, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **source,
    )
    check_loaded(read, info, f"{folder}/{gguf_file}", head_is_new=False)
    # The same weights in a model that does not hold itself for a quantized one, and can be saved.
    config = type(read.config)(
        **{key: value for key, value in read.config.to_dict().items() if "quantization" not in key}
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    temporary = made.with_name(f".{made.name}.new")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(made)
