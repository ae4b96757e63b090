"""GPO, the pooling of VSE-infinity: learned weights over the sorted values of each feature.

Shapes: b items, n rows, k lengths, w features. A mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tern.networks.cpu_ops import sum_sorted_rows
from tern.networks.layers import sinusoidal_positions


class GPO(nn.Module):
    """Generalized pooling operator: average the sorted values of each feature with learned weights.

    The weights depend on the position in the order and on the number of rows. Mean, max and k-max are special cases
    (VSE-infinity, section 3.2: sinusoidal positions, a BiGRU, a softmax).

    Args:
        size: Size of the position codes and of the GRU.
        temperature: Temperature of the softmax.
    """

    def __init__(self, size: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.size, self.temperature = size, temperature
        self.gru = nn.GRU(size, size, batch_first=True, bidirectional=True)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool the real rows: x (b, n, w), mask (b, n) -> (b, w)."""
        lengths, length_index = mask.sum(1).unique(return_inverse=True)  # many items have equal lengths
        weights = self.weights(lengths.flip(0), x.shape[1]).flip(0)[length_index]  # (b, n)
        return sum_sorted_rows(x, mask, weights.to(x.dtype))

    def weights(self, lengths: Tensor, n: int) -> Tensor:
        """Compute the weights (k, n) of items with `lengths` (k,) rows, descending; each row sums to 1."""
        codes = sinusoidal_positions(n, self.size, lengths.device).expand(lengths.shape[0], -1, -1)  # (k, n, size)
        # Sorting here, or `len`, would fix the number of lengths in an exported graph to that of its sample.
        packed = nn.utils.rnn.pack_padded_sequence(codes, lengths.cpu(), batch_first=True)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=n)
        forward, backward = states.chunk(2, dim=-1)  # (k, n, size) twice
        scores = self.score((forward + backward) / 2)[..., 0] / self.temperature  # (k, n)
        real = torch.arange(n, device=lengths.device) < lengths[:, None]  # (k, n)
        return scores.masked_fill(~real, float("-inf")).softmax(dim=1)
