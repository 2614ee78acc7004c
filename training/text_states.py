"""Mean states of texts in the text layers, for stages that do not train these.

Shape letters: B texts, D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batches import Tokens
from training.models.fusion import FusedModel

TEXTS_PER_PASS = 256


class MeanTextStates:
    """Mean text states by token ids, for stages that train no text layer: every text is encoded once."""

    def __init__(self, model: FusedModel) -> None:
        self._model = model
        self._stored: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def __call__(self, tokens: Tokens) -> Tensor:
        """Return the mean states (B, D) of texts."""
        ids, lengths = tokens.ids.cpu().numpy(), tokens.mask.sum(dim=1).tolist()
        keys = [row[:length].tobytes() for row, length in zip(ids, lengths, strict=True)]
        missing = {key: row for row, key in enumerate(keys) if key not in self._stored}
        rows = sorted(missing.values(), key=lambda row: lengths[row])
        for start in range(0, len(rows), TEXTS_PER_PASS):
            some = torch.tensor(rows[start : start + TEXTS_PER_PASS], device=tokens.ids.device)
            longest = int(lengths[rows[start : start + TEXTS_PER_PASS][-1]])
            means = mean_text_state(self._model, Tokens(tokens.ids[some, :longest], tokens.mask[some, :longest]))
            self._stored.update(zip((keys[row] for row in some.tolist()), means.float(), strict=True))
        return torch.stack([self._stored[key] for key in keys])


def mean_text_state(model: FusedModel, tokens: Tokens) -> Tensor:
    """Return the mean states (B, D) of texts."""
    return model.mean_text_state(model.text.encode(tokens.ids, tokens.mask), tokens.mask)
