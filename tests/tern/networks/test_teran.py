"""The network of TERAN: vectors and scores of its checkpoints against a slow forward pass, and other checkpoints."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data.alignment import combine_scores, compute_alignment_scores
from tern.config import ModelConfig, TrainConfig
from tern.model.authors_file import ROW_WEIGHT
from tern.model.convert import load_paper_checkpoint
from tern.model.embed import forward_captions, forward_images
from tern.networks.alignment import alignment_scores
from tern.networks.inputs import CaptionBatch, ImageBatch
from tern.networks.teran import Teran, find_words
from tests.reference.teran import SlowTeran, make_config, make_slow_teran, save_teran, slow_score
from tests.reference.tern import SlowTern

REGIONS, LENGTHS = [7, 2, 4, 7, 3], [9, 4, 5, 12, 9, 6]


def make_mask(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def make_batches():
    """Five images and six captions, with noise in the padding."""
    torch.manual_seed(2)
    low = torch.rand(5, 7, 2) * 50
    boxes, sizes = torch.cat([low, low + torch.rand(5, 7, 2) * 60], 2), torch.rand(5, 2) * 100 + 110
    images = ImageBatch(torch.randn(5, 7, 24), boxes, sizes, make_mask(REGIONS))
    return images, CaptionBatch(torch.randn(6, 12, 10), make_mask(LENGTHS))


@torch.no_grad()
def embed_slowly(slow, images, captions):
    image_rows = [
        slow.embed_image(images.features[i, :r], images.boxes[i, :r], images.sizes[i]) for i, r in enumerate(REGIONS)
    ]
    return image_rows, [slow.embed_caption(captions.features[i, :n]) for i, n in enumerate(LENGTHS)]


@pytest.mark.parametrize("is_shared", [False, True], ids=["unshared", "shared"])
@pytest.mark.parametrize("mode", ["MrSw", "MwSr", "symm"])
def test_scores_and_ranks_of_a_checkpoint_equal_plain_loops(tmp_path, mode, is_shared):
    slow = make_slow_teran(is_shared=is_shared)
    save_teran(tmp_path / "best.pth.tar", slow, make_config(mode, is_shared))
    model, bert = load_paper_checkpoint(tmp_path / "best.pth.tar")
    images, captions = make_batches()
    image_rows, caption_rows = embed_slowly(slow, images, captions)
    expected = np.array([[slow_score(image, caption, mode) for caption in caption_rows] for image in image_rows])
    assert (type(model), bert) == (Teran, {})
    with torch.no_grad():
        encoded = model.encode_images(images), model.encode_captions(captions.features, captions.mask)
    for part, slow_rows, first in ((encoded[0].rows, image_rows, 1), (encoded[1].rows, caption_rows, 0)):
        for vectors, mask, rows in zip(part.vectors, part.mask, slow_rows, strict=True):
            is_used = vectors[mask].norm(dim=1) > 0  # a token that is not a word has zeros
            torch.testing.assert_close(vectors[mask][is_used], rows[first:][is_used], atol=1e-5, rtol=0)
    scores = alignment_scores(encoded[0].rows, encoded[1].rows).numpy() * 2 / ROW_WEIGHT
    np.testing.assert_allclose(scores, expected, atol=1e-5 * 20)  # of sums of up to 20 cosines
    assert expected.std(axis=0).min() > 0.01, "equal scores would agree in any case"
    embedded, num_clear = (forward_images(model, images), forward_captions(model, captions)), 0
    for item in range(len(REGIONS)):
        query, cosines = embedded[0].rows.select([item]), embedded[0].vectors[item] @ embedded[1].vectors.T
        combined = combine_scores(cosines, compute_alignment_scores(query, embedded[1].rows), 1.0)
        np.testing.assert_allclose(combined * 2 / ROW_WEIGHT, expected[item], atol=0.05)  # 8 bits
        differences = expected[item][:, None] - expected[item]
        is_clear = differences > 0.1  # twice the error of 8 bits
        assert ((combined[:, None] - combined)[is_clear] > 0).all()
        num_clear += int(is_clear.sum())
    assert num_clear > 30, "of 75 pairs of captions"


@pytest.mark.parametrize("loss", ["alignment", "matching alignment"])
def test_vectors_of_the_first_stage_are_those_that_were_trained(tmp_path, loss):
    slow = make_slow_teran()
    save_teran(tmp_path / "best.pth.tar", slow, make_config(training={"loss-type": loss}))
    model, _ = load_paper_checkpoint(tmp_path / "best.pth.tar")
    images, captions = make_batches()
    image_rows, caption_rows = embed_slowly(slow, images, captions)
    if loss == "alignment":  # [CLS] of the last layer has no loss
        pooled = [rows[1:].mean(dim=0) for rows in image_rows], [rows[1:-2].mean(dim=0) for rows in caption_rows]
    else:
        pooled = [rows[0] for rows in image_rows], [rows[0] for rows in caption_rows]
    with torch.no_grad():
        vectors = model.embed_images(images), model.embed_captions(captions.features, captions.mask)
    for part, expected in zip(vectors, pooled, strict=True):
        torch.testing.assert_close(part, torch.stack([row / row.norm() for row in expected]), atol=1e-5, rtol=0)


def test_words_are_all_tokens_but_the_first_and_the_last_two():
    words = find_words(make_mask([6, 4, 3, 2, 1])).tolist()
    assert words == [
        [False, True, True, True, False, False],
        [False, True, False, False, False, False],
        [False, True, False, False, False, False],  # one token: the authors would have no word
        [True, True, False, False, False, False],
        [True, False, False, False, False, False],
    ]


SECOND_STACK = "img_txt_enc.transformer_encoder_2.layers.0.norm1.weight"


@pytest.mark.parametrize(
    ("slow", "config", "extra", "message"),
    [
        (SlowTeran(), None, {}, "transformer_encoder_2.*does not belong to a published configuration of TERN"),
        (SlowTeran(), make_config(training={"loss-type": "matching"}), {}, "transformer_encoder_2"),
        (SlowTern(d=24, t=10, e=16, layers=3, ff=20), make_config(), {}, "configuration of TERAN: .*image_layers"),
        (SlowTeran(), make_config(is_shared=True), {}, "transformer_encoder_2"),
        (SlowTeran(), make_config(), {SECOND_STACK: torch.ones(4)}, "configuration of TERAN: .*size mismatch"),
        (SlowTeran(e=1028), make_config(), {}, "alignment_dim"),
        (SlowTeran(), make_config("scan-sentences"), {}, r"alignment-mode: 'scan-sentences'.* MrSw, MwSr, symm"),
        (SlowTeran(), make_config(training={"alignment-mode": ["MrSw"]}), {}, r"alignment-mode: \['MrSw'\]"),
        (SlowTeran(), make_config(training={"measure": "order"}), {}, "measure: 'order'"),
        (SlowTeran(), make_config(model={"exclude-stopwords": True}), {}, "exclude-stopwords: True"),
        (SlowTeran(), make_config(model={"text-aggregation": "gru"}), {}, "text-aggregation: 'gru'"),
        (SlowTeran(), make_config() | {"training": "alignment"}, {}, "transformer_encoder_2"),
        (SlowTeran(), make_config(), {"img_txt_enc.txt_enc.rnn.weight_ih_l0": torch.ones(2)}, "rnn"),
    ],
    ids=[
        "TERAN as TERN", "another loss", "TERN as TERAN", "unshared as shared", "another shape", "too wide",
        "another score", "a list of scores", "order", "no stopwords", "another pooling", "no tables", "GRU",
    ],
)  # fmt: skip
def test_checkpoint_of_another_network_or_score_is_rejected(tmp_path, slow, config, extra, message):
    save_teran(tmp_path / "x.pth.tar", slow, config, extra)
    with pytest.raises(ValueError, match=message) as caught:
        load_paper_checkpoint(tmp_path / "x.pth.tar")
    assert "x.pth.tar" in str(caught.value) or "cannot be imported" in str(caught.value)


@pytest.mark.parametrize(
    "missing",
    ["img_proj.bias", "cap_proj.weight", "transformer_encoder_2.layers.1.linear1.bias", "transformer_encoder_1"],
)
def test_checkpoint_without_a_piece_is_rejected(tmp_path, missing):
    slow = SlowTeran()
    kept = {name: value for name, value in slow.state_dict().items() if not name.startswith(missing)}
    torch.save({"model": {f"img_txt_enc.{n}": v for n, v in kept.items()}, "config": make_config()}, tmp_path / "x")
    with pytest.raises(ValueError, match="not a checkpoint of the published configuration of TERAN"):
        load_paper_checkpoint(tmp_path / "x")


def test_network_is_not_trained_and_has_row_vectors_of_its_width():
    shape = {"architecture": "teran", "embed_dim": 16, "alignment_dim": 16}
    assert ModelConfig(**shape).alignment_dim == 16
    with pytest.raises(ValidationError, match="requires alignment_dim = embed_dim"):
        ModelConfig(**shape | {"alignment_dim": 8})
    with pytest.raises(ValidationError, match="not trained here"):
        TrainConfig(model=shape)
