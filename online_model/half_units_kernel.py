"""The GPU kernel of `half_units`, in Triton (Tillet, Kung and Cox, "Triton", MAPL 2019)."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def products_by_group(  # type: ignore[no-untyped-def]
    table,
    vectors,
    size,
    height,
    largest,
    sums,
    groups,
    blocks,
    batch,
    WIDTH: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    VECTORS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
):
    """Multiply ROWS rows of the table, (blocks * ROWS, WIDTH), with VECTORS vectors of (batch, WIDTH).

    Writes the largest product of each GROUP rows to `largest`, (batch, groups), and the sum of exp(product - height) to `sums`,
    (batch, blocks).
    """
    block = tl.program_id(0).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    places = tl.program_id(1) * VECTORS + tl.arange(0, VECTORS)
    asked = places < batch
    columns = tl.arange(0, WIDTH)
    units = tl.load(table + rows[:, None] * WIDTH + columns[None, :])
    queries = tl.load(vectors + places[None, :] * WIDTH + columns[:, None], mask=asked[None, :], other=0.0)
    products = tl.dot(units, queries)
    in_use = (rows > 0) & (rows < tl.load(size))
    products = tl.where(in_use[:, None], products, float("-inf"))
    best = tl.max(tl.reshape(products, (ROWS // GROUP, GROUP, VECTORS)), axis=1)
    numbers = block * (ROWS // GROUP) + tl.arange(0, ROWS // GROUP)
    tl.store(largest + places[None, :] * groups + numbers[:, None], best, mask=asked[None, :])
    tl.store(sums + places * blocks + block, tl.sum(tl.exp(products - height), axis=0), mask=asked)
