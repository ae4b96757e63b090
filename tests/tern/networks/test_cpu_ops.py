"""Operations of `tern.networks.cpu_ops` compared with those of torch."""

import pytest
import torch
import torch.nn.functional as F

from tern.networks import cpu_ops


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("needs_input_grad", [True, False])
def test_linear_and_its_gradients_equal_torch(shape, needs_input_grad):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=draw) for size in (shape, (7, 5), (7,)))
    grad = torch.randn(*shape[:-1], 7, generator=draw)
    found = []
    for function in (F.linear, cpu_ops.linear):
        values = [value.clone().requires_grad_(needs_input_grad or k > 0) for k, value in enumerate((x, weight, bias))]
        with torch.autocast("cpu", torch.bfloat16):
            out = function(*values)
        assert out.dtype == torch.bfloat16
        (out.float() * grad).sum().backward()
        found.append([out, *(value.grad for value in values if value.requires_grad)])
    for theirs, ours in zip(*found, strict=True):
        assert theirs.dtype == ours.dtype
        torch.testing.assert_close(ours.float(), theirs.float(), atol=0.02, rtol=0.02)  # the step of bfloat16


def test_linear_equals_torch_exactly_without_autocast():
    x, weight, bias = torch.randn(4, 5), torch.randn(7, 5), torch.randn(7)
    assert torch.equal(cpu_ops.linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_keeps_its_fraction_and_the_mean(dtype, rate):
    x = torch.ones(401, 999, dtype=dtype, requires_grad=True)  # not a multiple of the four numbers per draw
    torch.manual_seed(0)
    out = cpu_ops.dropout(x, rate)
    torch.manual_seed(0)
    assert torch.equal(out, cpu_ops.dropout(x, rate))
    assert not torch.equal(out, cpu_ops.dropout(x, rate))
    kept = out != 0
    part, count = 1 - rate, x.numel()
    assert abs(kept.float().mean() - part) < 5 * (rate * part / count) ** 0.5 + 2 / cpu_ops.LEVELS
    torch.testing.assert_close(out[kept].float(), torch.full((int(kept.sum()),), 1 / part), rtol=0.02, atol=0)
    for dim in (0, 1):  # rows and columns are dropped independently
        std = kept.float().mean(dim).std()
        assert std == pytest.approx((rate * part / kept.shape[dim]) ** 0.5, rel=0.2)
    out.sum().backward()
    assert torch.equal(x.grad, out)
    assert cpu_ops.dropout(x, rate, training=False) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 7])  # the last layer needs row 0 only
def test_attention_and_its_gradients_equal_torch(dtype, queries, monkeypatch):
    """Nothing is dropped here: `dropout` is tested above, and torch draws other numbers."""
    monkeypatch.setattr(cpu_ops, "dropout", lambda x, rate: x)
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(3, n, 8, generator=draw).to(dtype) for n in (queries, 7, 7)]
    grad = torch.randn(3, queries, 8, generator=draw)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [True] + [False] * 6])
    found = []
    for rate in (0.0, 0.1):  # the first uses torch's function
        inputs = [value.clone().requires_grad_() for value in values]
        out = cpu_ops.attention(*inputs, mask, 2, rate)
        assert out.dtype == dtype
        (out.float() * grad).sum().backward()
        found.append([out, *(value.grad for value in inputs)])
    step = 1e-5 if dtype == torch.float32 else 0.02
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=step, rtol=step)


def test_attention_drops_weights_and_keeps_the_mean():
    """Each row attends to 400 equal ones: the mean over many draws is their value, and draws differ."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 5000, 4), torch.zeros(1, 400, 4), torch.ones(1, 400, 4)
    out = cpu_ops.attention(q, k, v, torch.ones(1, 400, dtype=torch.bool), 2, 0.3)
    part = 0.7
    assert out.std() == pytest.approx(((1 - part) / part / 400) ** 0.5, rel=0.1)
    assert out.mean() == pytest.approx(1, abs=0.002)
    assert not torch.equal(out[..., :2], out[..., 2:])  # the two heads
