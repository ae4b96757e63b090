"""The two quick operations against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from tern import quick


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("first", [True, False])  # whether the gradient goes on below
def test_linear_and_its_gradients_are_torchs(shape, first):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=draw) for size in (shape, (7, 5), (7,)))
    coming = torch.randn(*shape[:-1], 7, generator=draw)
    found = []
    for way in (F.linear, quick.linear):
        given = [value.clone().requires_grad_(first or k > 0) for k, value in enumerate((x, weight, bias))]
        with torch.autocast("cpu", torch.bfloat16):
            out = way(*given)
        assert out.dtype == torch.bfloat16
        (out.float() * coming).sum().backward()
        found.append([out, *(value.grad for value in given if value.requires_grad)])
    for theirs, ours in zip(*found, strict=True):
        assert theirs.dtype == ours.dtype
        torch.testing.assert_close(ours.float(), theirs.float(), atol=0.02, rtol=0.02)  # bfloat16's own step


def test_without_autocast_linear_is_torchs_to_the_bit():
    x, weight, bias = torch.randn(4, 5), torch.randn(7, 5), torch.randn(7)
    assert torch.equal(quick.linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_leaves_its_part_and_keeps_the_mean(dtype, rate):
    x = torch.ones(401, 999, dtype=dtype, requires_grad=True)  # no multiple of the four numbers of a draw
    torch.manual_seed(0)
    out = quick.dropout(x, rate)
    torch.manual_seed(0)
    assert torch.equal(out, quick.dropout(x, rate))
    assert not torch.equal(out, quick.dropout(x, rate))
    kept = out != 0
    part, count = 1 - rate, x.numel()
    assert abs(kept.float().mean() - part) < 5 * (rate * part / count) ** 0.5 + 2 / quick.LEVELS
    torch.testing.assert_close(out[kept].float(), torch.full((int(kept.sum()),), 1 / part), rtol=0.02, atol=0)
    for way in (0, 1):  # rows and columns are dropped as independently
        spread = kept.float().mean(way).std()
        assert spread == pytest.approx((rate * part / kept.shape[way]) ** 0.5, rel=0.2)
    out.sum().backward()
    assert torch.equal(x.grad, out)
    assert quick.dropout(x, rate, training=False) is x
