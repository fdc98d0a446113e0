"""Run the GPU kernel of `half_units` in Triton's interpreter, and print "equal" for each catalogue where torch reckons the same."""

import torch

from headrace.online_model.half_units import by_kernel, by_torch
from headrace.online_model.half_units_kernel import products_by_group

for size, batch in ((1, 1), (130, 16), (500, 21)):
    torch.manual_seed(size)
    table = torch.nn.functional.normalize(torch.randn(512, 64), dim=1).half()
    vectors = (10.0 * torch.nn.functional.normalize(torch.randn(batch, 64), dim=1)).half()
    asked = table, vectors, torch.tensor([size], dtype=torch.int32), 10.0
    for ours, right in zip(by_kernel(products_by_group, *asked), by_torch(*asked), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)
    print("equal")
