"""Alignment scores in torch against a loop over pairs and against `data.alignment`, and the network that has them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.alignment import compute_alignment_scores, encode_rows
from tern.config import ModelConfig
from tern.networks import alignment
from tern.networks.alignment import RowBatch, alignment_scores
from tern.networks.default import Tern
from tern.networks.inputs import ImageBatch

SMALL = {"width": 16, "heads": 2, "feedforward_dim": 16, "embed_dim": 12, "alignment_dim": 8}


def draw_rows(lengths: list[int], seed: int, dtype: torch.dtype = torch.float32) -> RowBatch:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    vectors = F.normalize(torch.randn(*mask.shape, 8, generator=draw, dtype=dtype), dim=-1)
    weights = torch.rand(mask.shape, generator=draw, dtype=dtype).masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return RowBatch(vectors.requires_grad_(), weights, mask)


def score_plainly(images: RowBatch, captions: RowBatch) -> torch.Tensor:
    """Score by autograd's own operations on all cosines at once."""
    cosines = torch.einsum("brk,ntk->brnt", images.vectors, captions.vectors)
    hidden = ~images.mask[:, :, None, None] | ~captions.mask[None, None]
    cosines = cosines.masked_fill(hidden, -9)
    from_tokens = (cosines.amax(dim=1) * captions.weights).masked_fill(~captions.mask, 0).sum(dim=-1)
    from_regions = (
        (cosines.amax(dim=3) * images.weights[:, :, None]).masked_fill(~images.mask[:, :, None], 0).sum(dim=1)
    )
    return (from_tokens + from_regions) / 2


@pytest.mark.parametrize("block", [1, 1 << 21], ids=["image by image", "at once"])
@pytest.mark.parametrize("lengths", [([3, 1, 4], [2, 5]), ([1], [1]), ([6, 6], [4, 4, 1, 7])])
def test_alignment_scores_and_gradients_equal_those_of_plain_operations(lengths, block, monkeypatch):
    monkeypatch.setitem(alignment.BLOCK_NUMBERS, "cpu", block)
    images, captions = draw_rows(lengths[0], 0, torch.float64), draw_rows(lengths[1], 1, torch.float64)
    inputs = images.vectors, captions.vectors
    results = []
    for score in (alignment_scores, score_plainly):
        scores = score(images, captions)
        factors = torch.arange(1.0, 1 + scores.numel(), dtype=torch.float64).view_as(scores)
        results.append((scores, *torch.autograd.grad((scores * factors).sum(), inputs)))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)


def test_alignment_scores_equal_those_of_stored_rows_up_to_8_bits():
    images, captions = draw_rows([3, 5, 2], 2), draw_rows([4, 1], 3)
    scores = alignment_scores(images, captions).detach().numpy()
    stored_images, stored_captions = (
        encode_rows(*(part.detach().numpy() for part in rows)) for rows in (images, captions)
    )
    for column in range(2):
        codes = compute_alignment_scores(stored_captions.select([column]), stored_images)
        np.testing.assert_allclose(codes, scores[:, column], atol=0.01)
    for row in range(3):
        codes = compute_alignment_scores(stored_images.select([row]), stored_captions)
        np.testing.assert_allclose(codes, scores[row], atol=0.01)


def test_row_vectors_have_unit_length_and_do_not_depend_on_padding():
    torch.manual_seed(0)
    network = Tern(ModelConfig(**SMALL), 5, 6).eval()
    features, boxes = torch.randn(2, 4, 5), torch.rand(2, 4, 4).cumsum(dim=-1)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    batch = ImageBatch(features, boxes, torch.full((2, 2), 9.0), mask)
    vectors, rows = network.encode_images(batch)
    torch.testing.assert_close(network.embed_images(batch), vectors)
    torch.testing.assert_close(rows.vectors.norm(dim=-1), torch.ones(2, 4))
    torch.testing.assert_close(rows.weights.sum(dim=-1), torch.ones(2))
    assert not rows.weights[1, 2:].any()
    alone = network.encode_images(
        ImageBatch(features[1:, :2], boxes[1:, :2], torch.full((1, 2), 9.0), mask[1:, :2])
    ).rows
    torch.testing.assert_close(rows.vectors[1, :2], alone.vectors[0])
    torch.testing.assert_close(rows.weights[1, :2], alone.weights[0])
    tokens, token_mask = torch.randn(2, 3, 6), torch.tensor([[True] * 3, [True, False, False]])
    both = network.encode_captions(tokens, token_mask).rows
    torch.testing.assert_close(
        both.vectors[1, 0], network.encode_captions(tokens[1:, :1], token_mask[1:, :1]).rows.vectors[0, 0]
    )


def test_network_without_alignment_dim_has_no_row_vectors_and_no_more_weights():
    networks = [Tern(ModelConfig(**{**SMALL, "alignment_dim": dim}), 5, 6) for dim in (0, 8)]
    assert networks[0].encode_captions(torch.randn(1, 2, 6), torch.ones(1, 2, dtype=torch.bool)).rows is None
    more = networks[1].state_dict().keys() - networks[0].state_dict().keys()
    assert {name.partition(".")[0] for name in more} == {"image_rows", "caption_rows"}
