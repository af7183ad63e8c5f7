"""End a sweep with its table, on the terminal and as `sweep.csv`."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from sparselora.report.loading.load import load_records
from sparselora.report.rendering.bench_table import load_benches, print_bench
from sparselora.report.rendering.sweep_table import print_sweep, sweep_table


class SweepTable(Callback):
    """Print the records below a sweep's folder when it ends.

    A callback of Hydra's, named in `conf/config.yaml`.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the sweep's runs or benches, and write `sweep.csv`."""
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir():
            return
        benches = load_benches(folder)
        if benches:
            print_bench(benches, Console())
        frame = sweep_table(load_records(folder))
        if frame.empty:
            return
        path = folder / "sweep.csv"
        frame.to_csv(path, index=False)
        print_sweep(frame, Console(), f"{len(frame)} runs, best first; also {path}")
