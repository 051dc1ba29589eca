"""The plain multilayer perceptron that encoders and decoders are made of."""

import itertools

from torch import Tensor, nn


class Perceptron(nn.Module):
    """`layers` hidden layers of `hidden` units, smooth (SiLU), so that latents can be refined by Gauss-Newton."""

    def __init__(self, inputs: int, outputs: int, hidden: int, layers: int, dropout: float = 0.0):
        super().__init__()
        widths = [inputs] + [hidden] * layers
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            blocks += [nn.Linear(before, after), nn.SiLU()]
        self.body = nn.Sequential(*blocks, nn.Dropout(dropout))
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, values: Tensor) -> Tensor:
        """(image, input) to (image, output)."""
        return self.head(self.body(values))

    def start_at_zero(self) -> "Perceptron":
        """Zero the last layer, so that training starts from an output of zero."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        return self
