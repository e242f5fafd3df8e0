"""Towers that are done teaching towers that are not: what they say of every item is part of what those are to say.

A target alone says that one item was right; a teacher says how right all the others would have been (distillation;
Hinton et al., 2015). Pairs that teach together are better than each, and one pair can learn what they say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tandem_trainer.examples import Sequences, user_columns
from tandem_trainer.losses import Taught
from tandem_trainer.towers import JoinedUserTowers, UserTower


@dataclass(frozen=True, slots=True)
class Teacher:
    """user: a tower in evaluation mode. items: float [N, E], its item vectors. temperature: that it was trained with.

    share: 0 to 1, of the loss of those that it teaches.
    """

    user: UserTower | JoinedUserTowers
    items: Tensor
    temperature: float
    share: float

    @torch.no_grad()
    def says(self, batch: Sequences, of: NDArray[np.intp], place: NDArray[np.intp]) -> Taught:
        """Return what it says of the events at [of, place] of a batch, int [B] each."""
        history = F.embedding(torch.from_numpy(batch.history_rows), self.items)
        states = self.user.at_every_place(history, *map(torch.from_numpy, user_columns(batch)))
        return Taught(states[torch.from_numpy(of), torch.from_numpy(place)] / self.temperature, self.items, self.share)
