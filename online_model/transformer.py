"""A causal Transformer over a shopper's last steps (SASRec; Kang and McAuley, ICDM 2018), input and output table shared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

KINDS = ("view", "cart", "purchase")
UNKNOWN = 0


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of the network. `length` is the number of steps it sees."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 20

    def as_metadata(self) -> dict[str, str]:
        """Return the sizes as strings, as safetensors keeps them."""
        return {name: str(value) for name, value in asdict(self).items()}


class Block(nn.Module):
    """One pre-norm layer: causal self-attention, then a two-layer perceptron."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width)
        self.attention_out = nn.Linear(shape.width, shape.width)
        self.mlp_norm = nn.LayerNorm(shape.width)
        self.mlp = nn.Sequential(nn.Linear(shape.width, 2 * shape.width), nn.GELU(), nn.Linear(2 * shape.width, shape.width))

    def forward(self, steps: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        batch, length, width = steps.shape
        mixed = self.query_key_value(self.attention_norm(steps)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        steps = steps + self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = steps + self.mlp(self.mlp_norm(steps))
        return out


class NextItemTransformer(nn.Module):
    """Turns histories into vectors whose products with the item table rank the next item.

    Row 0 of the table stands for unknown items and padding. Histories are padded on the right: causality keeps the padding
    from touching the steps before it.
    """

    def __init__(self, shape: TransformerShape, capacity: int) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(capacity, shape.width, sparse=True)
        self.kinds = nn.Embedding(len(KINDS), shape.width)
        self.positions = nn.Parameter(torch.zeros(shape.length, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.out_norm = nn.LayerNorm(shape.width)
        nn.init.normal_(self.items.weight, std=shape.width**-0.5)
        nn.init.normal_(self.kinds.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    @property
    def capacity(self) -> int:
        """The number of rows of the item table."""
        return self.items.num_embeddings

    def forward(self, rows: Tensor, kinds: Tensor) -> Tensor:
        """Map item rows and kinds, both (batch, length), to vectors (batch, length, width), one for what follows each step."""
        steps = self.items(rows) + self.kinds(kinds) + self.positions[: rows.shape[1]]
        for block in self.blocks:
            steps = block(steps)
        out: Tensor = self.out_norm(steps)
        return out

    def grow(self, capacity: int) -> None:
        """Enlarge the item table to `capacity` rows, keeping those that are there."""
        if capacity <= self.capacity:
            return
        table = self.items.weight
        larger = torch.empty(capacity, self.shape.width, device=table.device, dtype=table.dtype)
        nn.init.normal_(larger, std=self.shape.width**-0.5)
        larger[: self.capacity] = table.detach()
        self.items = nn.Embedding(capacity, self.shape.width, sparse=True, _weight=larger)


def last_vectors(model: NextItemTransformer, rows: Tensor, kinds: Tensor, lengths: Tensor) -> Tensor:
    """Return the vector after each history's last step, (batch, width). `lengths` are at least 1."""
    vectors: Tensor = model(rows, kinds)
    return vectors[torch.arange(len(rows), device=rows.device), lengths - 1]


def pad(histories: Sequence[Sequence[tuple[int, int]]], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return item rows and kinds, (batch, longest of them), and the lengths, from the last `length` (row, kind) of each history.

    An empty history becomes a single unknown step.
    """
    clipped = [list(history[-length:]) or [(UNKNOWN, 0)] for history in histories]
    longest = max(map(len, clipped))
    rows = torch.zeros(len(clipped), longest, dtype=torch.long)
    kinds = torch.zeros_like(rows)
    for place, history in enumerate(clipped):
        steps = torch.tensor(history, dtype=torch.long)
        rows[place, : len(history)] = steps[:, 0]
        kinds[place, : len(history)] = steps[:, 1]
    return rows, kinds, torch.tensor([len(history) for history in clipped])
