import time

import torch

from sparselora.machine.timer import StepTimer, quantiles

CPU = torch.device("cpu")


def test_timer_measures_between_start_and_stop() -> None:
    timer = StepTimer(CPU)
    timer.start()
    time.sleep(0.02)
    timer.stop()
    time.sleep(0.02)
    assert 19 < timer.milliseconds() < 39


def test_quantiles() -> None:
    assert quantiles([]) == {"steps": 0, "p10": None, "p50": None, "p90": None, "mean": None}
    assert quantiles([float(value) for value in range(11)]) == {
        "steps": 11,
        "p10": 1.0,
        "p50": 5.0,
        "p90": 9.0,
        "mean": 5.0,
    }
