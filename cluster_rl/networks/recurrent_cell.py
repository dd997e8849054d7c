"""The cell that remembers: an LSTM or GRU, or in its place, for comparison, a layer without memory.

Actors run it a step at a time, the learner over sequences. In: a config. Out: the cell, as it starts.

Names: F input features, H recurrent units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster_rl.config import Config


class FeedForwardCell(nn.Linear):
    """In the recurrent cell's place, a layer of the same width without memory: [..., F] -> [..., H]."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


def recurrent_cell(config: Config, input_size: int) -> nn.LSTM | nn.GRU | FeedForwardCell:
    """The cell, the biases of an LSTM's gates set for memory.

    With `model.memory_steps` T, units forget over 2 to T steps, evenly spread: the forget gate's part of the chrono
    initialisation (Tallec & Ollivier 2018). The other part, closing input gates by as much, keeps too little of what
    no gradient teaches to take in: it fails the learning test of the stored state.
    """
    hidden, span = config.lstm_hidden_size, config.model.memory_steps
    if config.model.recurrent_cell == "none":
        return FeedForwardCell(input_size, hidden)
    if config.model.recurrent_cell == "gru":
        return nn.GRU(input_size, hidden)
    cell = nn.LSTM(input_size, hidden)
    with torch.no_grad():
        # The cell adds two biases, gates in the order input, forget, cell, output. With PyTorch's start at 0 the cell
        # forgets half at every step, and memory over more than a few steps is not learned.
        cell.get_parameter("bias_hh_l0").zero_()
        _, for_forget, _, _ = cell.get_parameter("bias_ih_l0").zero_().chunk(4)
        if span == 0:
            for_forget.fill_(1.0)
        else:
            for_forget.uniform_(1.0, max(1.0, span - 1.0)).log_()
    return cell
