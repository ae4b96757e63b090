"""The default network: padding, batch and order do not change a vector; pooling equals plain arithmetic."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tern.batching.pad import pad_rows, sample_kept_rows
from tern.batching.plan import plan_batches
from tern.config import ModelConfig
from tern.model.embed import embed_new_captions, embed_new_images
from tern.networks.default import Tern, TransformerLayer
from tern.networks.gpo import GPO
from tern.networks.inputs import ImageBatch
from tern.networks.layers import box_features, pool_rows

SMALL = {"width": 16, "heads": 2, "text_layers": 1, "feedforward_dim": 24, "embed_dim": 12, "shortcut": False}
SHAPES = [{"pooling": pooling} for pooling in ("gpo", "mean", "max", "cls")] + [
    {"pre_norm": False}, {"box_embedding": "none"}, {"visual_layers": 0, "text_layers": 0, "shared_layers": 0},
    {"shortcut": True},
]  # fmt: skip


def model(**changes):
    torch.manual_seed(0)
    return Tern(ModelConfig(**(SMALL | changes)), region_dim=10, token_dim=6).eval()


def make_image(rows, seed):
    draw = np.random.default_rng(seed)
    corners = np.sort(draw.uniform(0, 100, (rows, 2, 2)), axis=1)  # (r, corner, xy)
    features, boxes = draw.normal(size=(rows, 10)).astype(np.float32), corners.reshape(rows, 4).astype(np.float32)
    return features, boxes, (100, 120), draw.uniform(size=rows).astype(np.float32)


def make_caption(rows, seed):
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


@pytest.mark.parametrize("changes", SHAPES)
def test_vector_has_unit_length_and_does_not_depend_on_the_batch(changes):
    tern = model(**changes)
    images = [make_image(rows, seed) for seed, rows in enumerate((1, 9, 4, 30))]
    captions = [make_caption(rows, seed) for seed, rows in enumerate((2, 17, 5, 60))]
    together, alone = (
        embed_new_images(tern, images).vectors,
        [embed_new_images(tern, [one]).vectors[0] for one in images],
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(
        embed_new_captions(tern, captions).vectors,
        [embed_new_captions(tern, [one]).vectors[0] for one in captions],
        atol=1e-5,
    )
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("changes", SHAPES)
def test_padded_rows_do_not_change_a_vector(changes):
    tern, mask = model(**changes), torch.tensor([[True] * 3 + [False] * 4])
    rows = torch.randn(1, 7, 6)
    other = torch.where(mask[..., None], rows, torch.full_like(rows, 1e4))
    torch.testing.assert_close(tern.embed_captions(rows, mask), tern.embed_captions(other, mask))
    regions, boxes, sizes = (
        torch.randn(1, 7, 10),
        50 * torch.rand(1, 7, 4).sort(dim=-1).values,
        torch.full((1, 2), 60.0),
    )
    strange = torch.where(mask[..., None], regions, torch.full_like(regions, 1e4))
    far = torch.where(mask[..., None], boxes, torch.tensor([900.0, 0.0, 7.0, 1e4]))
    pairs = ((regions, boxes), (strange, far))
    torch.testing.assert_close(*(tern.embed_images(ImageBatch(*pair, sizes, mask)) for pair in pairs))


@pytest.mark.parametrize("pooling", ["gpo", "mean", "max"])
def test_order_of_regions_does_not_change_a_vector(pooling):
    tern = model(pooling=pooling)
    features, boxes, size, scores = make_image(8, 0)
    order = np.random.default_rng(0).permutation(8)
    mixed = embed_new_images(tern, [(features[order], boxes[order], size, scores[order])]).vectors
    np.testing.assert_allclose(mixed, embed_new_images(tern, [(features, boxes, size, scores)]).vectors, atol=1e-5)


def test_boxes_change_a_vector_only_with_box_embedding():
    features, boxes, size, scores = make_image(8, 0)
    for box_embedding, is_equal in (("add", False), ("none", True)):
        pair = embed_new_images(
            model(box_embedding=box_embedding), [(features, boxes, size, scores), (features, boxes[::-1], size, scores)]
        ).vectors
        assert np.allclose(*pair, atol=1e-6) is is_equal


def test_shared_layers_are_one_module_for_both_modalities():
    tern = model()
    for embed in (
        lambda: tern.embed_images(
            ImageBatch(torch.randn(2, 3, 10), torch.rand(2, 3, 4), torch.ones(2, 2), torch.ones(2, 3).bool())
        ),
        lambda: tern.embed_captions(torch.randn(2, 3, 6), torch.ones(2, 3).bool()),
    ):
        tern.zero_grad()
        embed().sum().backward()
        assert tern.shared[0].qkv.weight.grad.abs().sum() > 0


def test_every_parameter_is_used():
    for changes in SHAPES:
        tern = model(**changes)
        images = tern.embed_images(
            ImageBatch(torch.randn(3, 4, 10), torch.rand(3, 4, 4), torch.ones(3, 2), torch.ones(3, 4).bool())
        )
        (images @ tern.embed_captions(torch.randn(3, 4, 6), torch.ones(3, 4).bool()).T)[0].prod().backward()
        unused = [name for name, p in tern.named_parameters() if p.grad is None]
        assert not unused, f"{changes}: {unused}"


def test_transformer_layer_equals_that_of_torch():
    config = ModelConfig(**SMALL, dropout=0)
    layer = TransformerLayer(config).eval()
    torch_layer = torch.nn.TransformerEncoderLayer(16, 2, 24, 0, "gelu", batch_first=True, norm_first=True).eval()
    names = {
        "self_attn.in_proj_weight": "qkv.weight", "self_attn.in_proj_bias": "qkv.bias",
        "self_attn.out_proj.weight": "out.weight", "self_attn.out_proj.bias": "out.bias",
        "linear1.weight": "feed.0.weight", "linear1.bias": "feed.0.bias",
        "linear2.weight": "feed.2.weight", "linear2.bias": "feed.2.bias",
    }  # fmt: skip
    state = layer.state_dict()
    torch_layer.load_state_dict({name: state[names.get(name, name)] for name in torch_layer.state_dict()})
    x, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected = torch_layer(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(layer(x, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_pool_rows_equals_plain_arithmetic():
    x, lengths = torch.randn(3, 6, 4), [6, 1, 3]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    real_rows = [x[i, :n] for i, n in enumerate(lengths)]
    torch.testing.assert_close(pool_rows(x, mask, "mean"), torch.stack([rows.mean(0) for rows in real_rows]))
    torch.testing.assert_close(pool_rows(x, mask, "max"), torch.stack([rows.amax(0) for rows in real_rows]))
    torch.testing.assert_close(pool_rows(x, mask, "cls"), x[:, 0])


def test_gpo_is_a_weighted_sum_of_sorted_values_and_reaches_mean_and_max():
    x, lengths = torch.randn(3, 6, 4), torch.tensor([6, 2, 3])
    mask = torch.arange(6) < lengths[:, None]
    gpo = GPO()
    for i, n in enumerate(lengths.tolist()):
        weights = gpo.weights(torch.tensor([n]), n)[0]
        assert weights.sum().item() == pytest.approx(1)
        expected = (weights[:, None] * x[i, :n].sort(dim=0, descending=True).values).sum(0)
        torch.testing.assert_close(gpo(x, mask)[i], expected)
    torch.nn.init.zeros_(gpo.score.weight)
    torch.testing.assert_close(gpo(x, mask), pool_rows(x, mask, "mean"))
    gpo.weights = lambda lengths, n: torch.eye(n)[:1].expand(len(lengths), -1)
    torch.testing.assert_close(gpo(x, mask), pool_rows(x, mask, "max"))


def test_box_features_are_fractions_of_the_image():
    features = box_features(torch.tensor([[[20.0, 10.0, 60.0, 40.0]]]), torch.tensor([[200.0, 50.0]]))
    torch.testing.assert_close(features[0, 0], torch.tensor([0.1, 0.2, 0.3, 0.8, 0.12]))


def test_scale_of_the_features_does_not_change_a_vector():
    features, boxes, size, scores = make_image(5, 0)
    pair = embed_new_images(model(), [(features, boxes, size, scores), (100 * features, boxes, size, scores)]).vectors
    np.testing.assert_allclose(*pair, atol=2e-3)


def test_image_without_regions_has_a_finite_vector():
    empty = (np.zeros((0, 10), np.float32), np.zeros((0, 4), np.float32), (9, 9), np.zeros(0))
    for pooling in ("gpo", "mean", "max", "cls"):
        assert np.isfinite(embed_new_images(model(pooling=pooling), [empty, make_image(3, 0)]).vectors).all()


def test_pad_rows_keeps_every_row_of_every_item():
    lengths, rows = np.array([2, 0, 3]), np.arange(10, dtype=np.float16).reshape(5, 2)
    padded, mask = pad_rows(rows, lengths)
    assert mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert padded.tolist() == [[[0, 1], [2, 3], [0, 0]], [[0, 0]] * 3, [[4, 5], [6, 7], [8, 9]]]


def test_sample_kept_rows_drops_the_fraction_and_never_the_first_row():
    lengths = np.array([1, 400, 0, 600])
    keep = sample_kept_rows(lengths, 0.25, np.random.default_rng(0))
    assert keep[[0, 1, 401]].all()
    assert keep.mean() == pytest.approx(0.75, abs=0.05)


def test_plan_batches_has_every_image_once_and_rotates_captions():
    captions_by_image_id = {f"i{k}": [f"i{k}#{c}" for c in range(k % 7)] for k in range(50)}
    used = []
    for epoch in range(3):
        plans = plan_batches(captions_by_image_id, images_per_batch=16, captions_per_image=2, seed=5, epoch=epoch)
        images = [name for plan in plans for name in plan.images]
        assert sorted(images) == sorted(name for name, captions in captions_by_image_id.items() if captions)
        assert max(len(p.images) for p in plans) - min(len(p.images) for p in plans) <= 1
        for plan in plans:
            assert [plan.images[o] for o in plan.image_index] == [name.split("#")[0] for name in plan.captions]
            assert len(set(plan.captions)) == len(plan.captions)
            used += plan.captions
    full = captions_by_image_id["i6"]
    assert set(full) == {name for name in used if name.startswith("i6#")}  # 3 epochs x 2 = all 6
    same_seed, other_seed = (plan_batches(captions_by_image_id, 16, 2, seed, 2) for seed in (5, 6))
    assert plans == same_seed != other_seed


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"width": 30, "heads": 4}, "multiple of heads"), ({"pooling": "sum"}, "pooling"), ({"depth": 3}, "depth")],
)
def test_model_config_rejects_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embed_new_captions(model(), [make_caption(3, 0), np.zeros((3, 7))]), r"\(3, 7\).*\(n, 6\)"),
        (lambda: embed_new_captions(model(), []), "no token features"),
        (lambda: plan_batches({"a": ["a#0"], "b": []}, 8, 1, 0, 0), "1 images have captions"),
    ],
)
def test_invalid_input_is_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
