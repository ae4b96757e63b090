"""The quick operations against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from tern.networks import cpu_ops as quick


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 7])  # the last layer asks for row 0 alone
def test_attention_and_its_gradients_are_torchs(dtype, queries, monkeypatch):
    """Compared with nothing dropped: `dropout` is tested above, and torch's draws are others."""
    monkeypatch.setattr(quick, "dropout", lambda x, rate: x)
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(3, n, 8, generator=draw).to(dtype) for n in (queries, 7, 7)]
    coming = torch.randn(3, queries, 8, generator=draw)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [True] + [False] * 6])
    found = []
    for rate in (0.0, 0.1):  # the first goes torch's way
        given = [value.clone().requires_grad_() for value in values]
        out = quick.attention(*given, mask, 2, rate)
        assert out.dtype == dtype
        (out.float() * coming).sum().backward()
        found.append([out, *(value.grad for value in given)])
    step = 1e-5 if dtype == torch.float32 else 0.02
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=step, rtol=step)


def test_attention_drops_weights_and_keeps_their_mean():
    """One row looks at 400 alike: the mean over many draws is theirs, and each draw is another."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 5000, 4), torch.zeros(1, 400, 4), torch.ones(1, 400, 4)
    out = quick.attention(q, k, v, torch.ones(1, 400, dtype=torch.bool), 2, 0.3)
    part = 0.7
    assert out.std() == pytest.approx(((1 - part) / part / 400) ** 0.5, rel=0.1)
    assert out.mean() == pytest.approx(1, abs=0.002)
    assert not torch.equal(out[..., :2], out[..., 2:])  # the two heads
