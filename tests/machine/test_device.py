import pytest
import torch

from sparselora.errors import UserError
from sparselora.machine.device import choose_device, use_threads


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("name", "there"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_device_that_is_not_there_is_a_line(
    name: str, there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(UserError, match=rf"train.device={name}: .* {there} CUDA devices"):
        choose_device(name)


def test_threads_of_an_earlier_run_do_not_stay() -> None:
    use_threads(None)  # as an earlier test may have left it
    default = torch.get_num_threads()
    try:
        use_threads(default + 1)
        assert torch.get_num_threads() == default + 1
    finally:
        use_threads(None)
    assert torch.get_num_threads() == default
