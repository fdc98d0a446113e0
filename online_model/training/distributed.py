"""Several processes that train one model, started by torchrun: DistributedDataParallel (Li et al., VLDB 2020) for the dense part.

Of the item table only the rows that a batch has touched travel: each process gathers those of all. DDP itself can reduce a sparse
gradient with gloo, on the CPU, but not with nccl.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Group:
    """The processes of a run: which this one is, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


ALONE = Group()


@contextmanager
def joined(device: torch.device, meeting: str = "env://") -> Iterator[Group]:
    """Give the group that torchrun has started this process for, or a group of one where it has not.

    `meeting` is where the processes find each other, as torch.distributed writes it. Raises what torch raises where the others
    do not come.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=int(os.environ["RANK"]), world_size=size, timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """Return the device of a setting: 'auto', 'cpu' or 'cuda'. Each process of a machine takes a GPU of its own."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def spread(module: nn.Module, table: str, group: Group) -> nn.Module:
    """Return the module with the gradients of its dense parameters averaged over the group in each backward pass.

    All processes begin with the weights of the first. The parameter named `table` is left out; see `summed_rows`.
    """
    if group.size == 1:
        return module
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.broadcast(dict(module.named_parameters())[table].detach(), src=0)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, [table])
    return DistributedDataParallel(module)


def summed_rows(rows: Tensor, values: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Return the rows that any process of the group has touched, each once, and the sums of their values, (rows, width).

    They are the same to the last bit in each process.
    """
    if group.size == 1:
        return rows, values
    import torch.distributed as dist

    counts = torch.zeros(group.size, dtype=torch.long, device=rows.device)
    counts[group.rank] = len(rows)
    dist.all_reduce(counts)
    most = int(counts.max())
    rows, values = nn.functional.pad(rows, (0, most - len(rows))), nn.functional.pad(values, (0, 0, 0, most - len(values)))
    all_rows = [torch.empty_like(rows) for _ in range(group.size)]
    all_values = [torch.empty_like(values) for _ in range(group.size)]
    dist.all_gather(all_rows, rows)
    dist.all_gather(all_values, values)
    sent = counts.tolist()
    touched, places = torch.unique(torch.cat([part[:count] for part, count in zip(all_rows, sent, strict=True)]), return_inverse=True)
    total = values.new_zeros(len(touched), values.shape[1])
    return touched, total.index_add_(0, places, torch.cat([part[:count] for part, count in zip(all_values, sent, strict=True)]))


def summed(numbers: Tensor, group: Group) -> Tensor:
    """Return the sum over the group."""
    if group.size > 1:
        import torch.distributed as dist

        dist.all_reduce(numbers)
    return numbers


def wait_for_all(group: Group) -> None:
    """Return when every process has come here."""
    if group.size > 1:
        import torch.distributed as dist

        dist.barrier()
