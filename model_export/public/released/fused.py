"""A head on the first token of a text that was read together with a video, as HD-VILA and SOHO have it.

Shape letters: B texts, L tokens, V visual tokens, K their width, D width of the Transformer, N outputs of the head.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.text import TextTransformer

FUSED_AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")} | {
    "visual_tokens": {0: "batch"}
}


class FusedHead(nn.Module):
    """input_ids, attention_mask (B, L), visual_tokens (B, V, K) -> what ``head`` makes of the first state (B, D).

    ``place``: visual tokens (B, V, K) as the fused layers read them, (B, V, D).
    """

    def __init__(self, text: TextTransformer, place: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.text, self.place, self.head = text, place, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        states = self.text.encode(input_ids, attention_mask)
        seen = self.text.prepare_visual(visual_tokens, self.place(visual_tokens))
        out: Tensor = self.head(self.text.fuse(states, attention_mask, seen, first_only=True)[:, 0])
        return out
