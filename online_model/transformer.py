"""A causal Transformer over a shopper's last steps (SASRec; Kang and McAuley, ICDM 2018) with a cosine softmax.

Item vectors and history vectors are of length 1 and a logit is their product times a temperature (NISER; Gupta et al., 2019): so an
item that is seldom seen, and whose vector has not grown, is not ranked below the popular ones for that alone. One table of items
serves as input and as output. How, when, for what price and in which category an item was touched is added to its vector.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.online_model.step_batch import GAPS, KIND_ROWS, PRICES, UNKNOWN, StepBatch, encode

__all__ = ["KIND_ROWS", "UNKNOWN", "NextItemTransformer", "StepBatch", "TransformerShape", "encode", "last_vectors"]


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of the network. `length` is the number of steps it sees, `categories` the rows into which categories are hashed.

    `temperature` is what cosines are multiplied by to become logits; `dropout` is the share left out, in training only.
    """

    width: int = 64
    layers: int = 1
    heads: int = 2
    length: int = 20
    categories: int = 1024
    temperature: float = 10.0
    dropout: float = 0.1

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
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, steps: Tensor, padding: "Padding") -> Tensor:
        """Map steps without padding, (steps, width), to the same shape."""
        mixed = padding.put(self.query_key_value(self.attention_norm(steps)))
        batch, length, width = mixed.shape[0], mixed.shape[1], steps.shape[1]
        query, key, value = mixed.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        steps = steps + self.dropout(self.attention_out(padding.take(attended.transpose(1, 2).reshape(batch, length, width))))
        out: Tensor = steps + self.dropout(self.mlp(self.mlp_norm(steps)))
        return out


class Padding:
    """Where the steps of a padded batch are. Most histories are short: all but attention is done without the padding.

    On a GPU nothing is left out: to find out where the steps are would cost more than the padding does.
    """

    def __init__(self, steps: StepBatch) -> None:
        self._shape = steps.rows.shape
        self._places = None
        if steps.rows.device.type == "cpu":
            places = torch.arange(self._shape[1]) < steps.lengths[:, None]
            if not bool(places.all()):
                self._places = places.flatten().nonzero()[:, 0]

    def take(self, padded: Tensor) -> Tensor:
        """Return the steps, (steps, width), of a padded (batch, length, width)."""
        flat = padded.flatten(0, 1)
        return flat if self._places is None else flat.index_select(0, self._places)

    def put(self, steps: Tensor) -> Tensor:
        """Return steps, (steps, width), as (batch, length, width) with 0 for padding."""
        if self._places is not None:
            steps = steps.new_zeros(self._shape.numel(), steps.shape[1]).index_copy(0, self._places, steps)
        return steps.view(*self._shape, steps.shape[1])


class NextItemTransformer(nn.Module):
    """Turns histories into vectors whose products with the items' unit vectors rank the next item.

    Row 0 of the table stands for unknown items and padding; whatever it holds, its vector is 0. Histories are padded on the right:
    causality keeps the padding from touching the steps before it.
    """

    def __init__(self, shape: TransformerShape, capacity: int) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(capacity, shape.width, sparse=True)
        self.kinds = nn.Embedding(len(KIND_ROWS), shape.width)
        self.gaps = nn.Embedding(GAPS, shape.width)
        self.prices = nn.Embedding(PRICES, shape.width)
        self.categories = nn.Embedding(shape.categories, shape.width)
        self.positions = nn.Parameter(torch.zeros(shape.length, shape.width))
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.out_norm = nn.LayerNorm(shape.width)
        nn.init.normal_(self.items.weight, std=shape.width**-0.5)
        for inputs in (self.kinds.weight, self.gaps.weight, self.prices.weight, self.categories.weight, self.positions):
            nn.init.normal_(inputs, std=0.02)

    @property
    def capacity(self) -> int:
        """The number of rows of the item table."""
        return self.items.num_embeddings

    def forward(self, steps: StepBatch) -> Tensor:
        """Map steps to (batch, length, width), a vector for what follows each step; its length is the temperature. Padding gets no answer.

        Its products with `unit_items` are the logits of these items.
        """
        return self.follow(self.unit_items(steps.rows), steps)

    def unit_items(self, rows: Tensor) -> Tensor:
        """Return the vectors, of length 1, of item rows of any shape; that of row 0 is 0."""
        vectors: Tensor = functional.normalize(self.items(rows), dim=-1)
        return vectors * (rows != UNKNOWN).unsqueeze(-1)

    def follow(self, items: Tensor, steps: StepBatch) -> Tensor:
        """Do what `forward` does where the unit vectors of the steps' items, (batch, length, width), are at hand already."""
        padding = Padding(steps)
        kinds, gaps, prices, categories = (padding.take(numbers.unsqueeze(2))[:, 0] for numbers in steps[1:5])
        places = padding.take(torch.arange(items.shape[1], device=items.device).expand(items.shape[:2]).unsqueeze(2))[:, 0]
        vectors = padding.take(items) + self.kinds(kinds) + self.gaps(gaps) + self.prices(prices)
        vectors = self.dropout(vectors + self.categories(self._category_rows(categories)) + functional.embedding(places, self.positions))
        for block in self.blocks:
            vectors = block(vectors, padding)
        return padding.put(self.shape.temperature * functional.normalize(self.out_norm(vectors), dim=-1))

    def follow_to_end(self, items: Tensor, steps: StepBatch) -> Tensor:
        """Return of what `follow` does the vector after each history's last step, (batch, width)."""
        vectors = self.follow(items, steps)
        return vectors[torch.arange(len(vectors), device=vectors.device), steps.lengths - 1]

    def grow(self, capacity: int) -> None:
        """Enlarge the item table to `capacity` rows, keeping those that are there."""
        if capacity <= self.capacity:
            return
        table = self.items.weight
        larger = torch.empty(capacity, self.shape.width, device=table.device, dtype=table.dtype)
        nn.init.normal_(larger, std=self.shape.width**-0.5)
        larger[: self.capacity] = table.detach()
        self.items = nn.Embedding(capacity, self.shape.width, sparse=True, _weight=larger)

    def _category_rows(self, hashes: Tensor) -> Tensor:
        # Without a number of the host's, so that it can be captured as a CUDA graph.
        return (1 + hashes.remainder(self.shape.categories - 1)) * (hashes > 0)


def last_vectors(model: NextItemTransformer, steps: StepBatch) -> Tensor:
    """Return the vector after each history's last step, (batch, width)."""
    return model.follow_to_end(model.unit_items(steps.rows), steps)
