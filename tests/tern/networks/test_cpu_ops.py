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
    results = []
    for function in (F.linear, cpu_ops.linear):
        values = [value.clone().requires_grad_(needs_input_grad or k > 0) for k, value in enumerate((x, weight, bias))]
        with torch.autocast("cpu", torch.bfloat16):
            output = function(*values)
        assert output.dtype == torch.bfloat16
        (output.float() * grad).sum().backward()
        results.append([output, *(value.grad for value in values if value.requires_grad)])
    for expected, actual in zip(*results, strict=True):
        assert expected.dtype == actual.dtype
        torch.testing.assert_close(actual.float(), expected.float(), atol=0.02, rtol=0.02)  # the step of bfloat16


def test_linear_equals_torch_exactly_without_autocast():
    x, weight, bias = torch.randn(4, 5), torch.randn(7, 5), torch.randn(7)
    assert torch.equal(cpu_ops.linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_keeps_its_fraction_and_the_mean(dtype, rate):
    x = torch.ones(401, 999, dtype=dtype, requires_grad=True)  # not a multiple of the four numbers per draw
    torch.manual_seed(0)
    output = cpu_ops.dropout(x, rate)
    torch.manual_seed(0)
    assert torch.equal(output, cpu_ops.dropout(x, rate))
    assert not torch.equal(output, cpu_ops.dropout(x, rate))
    is_kept = output != 0
    kept_fraction, count = 1 - rate, x.numel()
    assert abs(is_kept.float().mean() - kept_fraction) < 5 * (rate * kept_fraction / count) ** 0.5 + 2 / cpu_ops.LEVELS
    torch.testing.assert_close(
        output[is_kept].float(), torch.full((int(is_kept.sum()),), 1 / kept_fraction), rtol=0.02, atol=0
    )
    for dim in (0, 1):  # rows and columns are dropped independently
        std = is_kept.float().mean(dim).std()
        assert std == pytest.approx((rate * kept_fraction / is_kept.shape[dim]) ** 0.5, rel=0.2)
    output.sum().backward()
    assert torch.equal(x.grad, output)
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
    results = []
    for rate in (0.0, 0.1):  # the first uses torch's function
        inputs = [value.clone().requires_grad_() for value in values]
        output = cpu_ops.attention(*inputs, mask, 2, rate)
        assert output.dtype == dtype
        (output.float() * grad).sum().backward()
        results.append([output, *(value.grad for value in inputs)])
    step = 1e-5 if dtype == torch.float32 else 0.02
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual.float(), expected.float(), atol=step, rtol=step)


def test_attention_drops_weights_and_keeps_the_mean():
    """Each row attends to 400 equal ones: the mean over many draws is their value, and draws differ."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 5000, 4), torch.zeros(1, 400, 4), torch.ones(1, 400, 4)
    output = cpu_ops.attention(q, k, v, torch.ones(1, 400, dtype=torch.bool), 2, 0.3)
    kept_fraction = 0.7
    assert output.std() == pytest.approx(((1 - kept_fraction) / kept_fraction / 400) ** 0.5, rel=0.1)
    assert output.mean() == pytest.approx(1, abs=0.002)
    assert not torch.equal(output[..., :2], output[..., 2:])  # the two heads


def test_sum_of_sorted_rows_and_its_gradients_equal_torch():
    """A sum with the weight 1 at one position is the value there, bit for bit."""
    draw = torch.Generator().manual_seed(0)
    x, grad = torch.randn(4, 9, 65, generator=draw), torch.randn(4, 65, generator=draw)
    x[0, 0] = 0.0  # values of both signs around it
    lengths = torch.tensor([9, 1, 4, 8])
    mask = torch.zeros(4, 9, dtype=torch.bool)
    for item, length in enumerate(lengths):  # the real rows are not the first ones
        mask[item, torch.randperm(9, generator=draw)[:length]] = True
    for position in range(9):
        weights = torch.eye(9)[position].expand(4, 9) * (position < lengths[:, None])
        actual = cpu_ops.sum_sorted_rows(x, mask, weights)
        for item, length in enumerate(lengths):
            rows = x[item, mask[item]].sort(dim=0, descending=True).values
            expected = rows[position] if position < length else torch.zeros(65)
            assert torch.equal(actual[item], expected)
    weights = torch.rand(4, 9, generator=draw) * (torch.arange(9) < lengths[:, None])
    inputs = [value.clone().requires_grad_() for value in (x, weights)]
    (cpu_ops.sum_sorted_rows(inputs[0], mask, inputs[1]) * grad).sum().backward()
    for item, length in enumerate(lengths):
        rows, w = (value.clone().requires_grad_() for value in (x[item, mask[item]], weights[item, :length]))
        (w @ rows.sort(dim=0, descending=True).values * grad[item]).sum().backward()
        torch.testing.assert_close(inputs[0].grad[item, mask[item]], rows.grad)
        torch.testing.assert_close(inputs[1].grad[item, :length], w.grad, atol=1e-5, rtol=1e-5)
        assert not inputs[0].grad[item, ~mask[item]].any()
        assert not inputs[1].grad[item, length:].any()
    for values in ((x.double(), weights.double()), (x.bfloat16(), weights.bfloat16())):  # torch's own sort
        other = cpu_ops.sum_sorted_rows(values[0], mask, values[1])
        torch.testing.assert_close(other.float(), cpu_ops.sum_sorted_rows(x, mask, weights), atol=0.05, rtol=0.02)
