"""The decoder of captions, and its training."""

from __future__ import annotations

import pytest
import torch

from tests.training.test_audio import LENGTHS, small_model, sounds


@pytest.mark.parametrize("hears", [False, True])
def test_words_decoded_one_by_one_are_those_of_one_pass_and_read_nothing_after_them(hears: bool) -> None:
    model = small_model(caption_layers=2, **({} if hears else {"audio": None}))
    visual = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(1, 100, (3, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        audio = model.encode_audio(sounds(), LENGTHS)[1] if hears else None
        prepared = model.prepare_captions(visual, audio)
        none = prepared[0][:, :, :, :0]
        whole = [model.next_word_logits(ids[:, :length], none, none, *prepared)[0] for length in range(1, 7)]
        keys, values = none, none
        for position in range(6):
            logits, keys, values = model.next_word_logits(ids[:, position : position + 1], keys, values, *prepared)
            assert torch.allclose(logits, whole[position], atol=1e-5)
        later, more_keys, _ = model.next_word_logits(ids[:, 2:], keys[:, :, :, :2], values[:, :, :, :2], *prepared)
        other, *_ = model.next_word_logits(ids, none, none, *model.prepare_captions(visual + 1, audio))
    assert torch.allclose(later, whole[5], atol=1e-5)
    assert torch.allclose(more_keys, keys, atol=1e-5)  # with a causal mask, states do not depend on later words
    assert (other - whole[5]).abs().max() > 1e-3
    if audio is not None:
        assert prepared[2][2].tolist() == [1] * 4 + [0] * audio.shape[1]  # the third clip is silent
