"""Two processes under DistributedDataParallel against one with the joined batch."""

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers.models.bert.modeling_bert import BertLayer

from sparselora import UserError, sparsify
from tests.conftest import plain, tiny_batch, tiny_model

CONFIGS = {
    "svd": plain(svd_rank=3, ffn_sparsity=0.6, estimator_tokens=None),
    "static": plain(
        estimator="static", ffn_sparsity=0.6, compensation="lowrank", compensation_rank=3
    ),
}
Gradients = tuple[list[list[int]], dict[str, torch.Tensor]]


def step(name: str, batch: dict[str, torch.Tensor], distributed: bool) -> Gradients:
    """Channels by layer and gradients after one sparse step, calibrated on that very batch."""
    model = tiny_model("bert").double()
    handle = sparsify(model, CONFIGS[name], calibration=batch)
    trained = DistributedDataParallel(model) if distributed else model
    trained(**batch).loss.backward()
    chosen = [ffn.chosen.tolist() for ffn in handle._sparse.values()]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return chosen, gradients


def worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    batch = {name: tensor[rank * 4 : rank * 4 + 4] for name, tensor in tiny_batch(8).items()}
    for name in CONFIGS:
        torch.save(step(name, batch, distributed=True), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_all_ranks_choose_alike_and_gradients_are_those_of_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(worker, (free_port(), str(tmp_path)), nprocs=2)
    for config in CONFIGS:
        chosen, expected = step(config, tiny_batch(8), distributed=False)
        for rank in range(2):
            there, gradients = torch.load(tmp_path / f"{config}-{rank}.pt")
            assert there == chosen
            assert gradients.keys() == expected.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(gradient, expected[name], msg=name)
    # Alone, the halves would have chosen otherwise: the reduction is what makes them agree.
    halves = [
        step(
            "svd", {name: tensor[part] for name, tensor in tiny_batch(8).items()}, distributed=False
        )[0]
        for part in (slice(4), slice(4, 8))
    ]
    assert halves[0] != halves[1]


def sharding_worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=1)
    said = []
    for layers in (False, True):
        model = tiny_model("bert")
        sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
        policy = ModuleWrapPolicy({BertLayer}) if layers else None
        sharded = FullyShardedDataParallel(
            model,
            use_orig_params=True,
            device_id=torch.device("cpu"),
            auto_wrap_policy=policy,
        )
        try:
            sharded(**tiny_batch())
            said.append("no error")
        except UserError as error:
            said.append(str(error))
    Path(folder, "said").write_text("\n".join(said))
    dist.destroy_process_group()


def test_sharded_weights_are_refused_in_a_line(tmp_path: Path) -> None:
    """Under FSDP it was an AttributeError inside of a layer."""
    mp.spawn(sharding_worker, (free_port(), str(tmp_path)), nprocs=1)
    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == 2
    assert all("sharded over devices (FSDP)" in line for line in lines)
