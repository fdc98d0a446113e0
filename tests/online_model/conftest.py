"""One thread for torch: the networks here are so small that threads only get into each other's way."""

import torch

torch.set_num_threads(1)
