import torch

from sparselora.measuring.roofline import roofline


def test_a_probe_is_of_a_machine_that_exists() -> None:
    found = roofline(torch.device("cpu"), torch.float32)
    assert found["dtype"] == "float32"
    # A bicycle and a rack of GPUs: orders of magnitude alone, since this may run beside other work.
    assert 0.1 < float(found["matmul_gflops"]) < 1e6
    assert 0.05 < float(found["copy_gb_per_second"]) < 1e5
