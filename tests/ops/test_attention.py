"""Attention: fused, of several heads, with masks."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from stock_code import Attention, FloatSums, assert_close_at_16_bits, convert_, in_scope, mapper
from torch import nn

from mmint.conversion import convert
from mmint.ops.matmul import attention

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def masked(kind):
    hidden = torch.rand(2, 1, 5, 6) < 0.3
    hidden[..., 0] = False
    if kind == 'bool':
        return ~hidden
    return torch.randn(2, 1, 5, 6).masked_fill(hidden, float('-inf'))


ATTENTION = {
    'plain': dict(),
    'bool mask': dict(attn_mask='bool'),
    'float mask': dict(attn_mask='float'),
    'causal': dict(is_causal=True),
    'scale': dict(scale=0.3),
}


@pytest.mark.parametrize('case', ATTENTION)
def test_fused_attention(case, calls):
    settings = dict(ATTENTION[case])
    if 'attn_mask' in settings:
        settings['attn_mask'] = masked(settings['attn_mask'])
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 7)
    assert_close_at_16_bits(lambda *qkv: F.scaled_dot_product_attention(*qkv, **settings), q, k, v)
    assert calls['matmul'] == 6


def test_fused_attention_of_groups():
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    assert_close_at_16_bits(
        lambda *qkv: F.scaled_dot_product_attention(*qkv, enable_gqa=True), q, k, v
    )


def test_a_query_that_sees_no_key_gets_zero_and_gives_no_gradient():
    q, k, v = (torch.randn(1, 1, 4, 8) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    q.requires_grad_()
    out = in_scope(lambda: F.scaled_dot_product_attention(q, k, v, mask))
    out.sum().backward()
    assert not out[0, 0, 1].any() and not q.grad[0, 0, 1].any()
    assert out[0, 0, 0].all() and q.grad.isfinite().all()


def test_dropout_of_attention_weights():
    """Each is left out or doubled: on average the output is that without dropout."""
    q, k = (torch.randn(1, 400, 4, 8).mul(0.1) for _ in range(2))
    v = torch.ones(1, 400, 4, 8)
    out, _ = attention(q, k, v, None, 0.5, None, (mapper(), mapper(call=1)))
    assert abs(float(out.mean()) - 1) < 0.1 and float(out.std()) > 0.3


def heads(**settings):
    torch.manual_seed(1)
    return nn.MultiheadAttention(8, 2, **settings)


HEADS = {
    'self': (dict(), dict(), 5),
    'cross': (dict(), dict(), 6),
    'batch first': (dict(batch_first=True), dict(), 6),
    'no bias': (dict(bias=False), dict(), 6),
    'weights of each head': (dict(), dict(average_attn_weights=False), 6),
    'no weights': (dict(), dict(need_weights=False), 6),
    'separate widths': (dict(kdim=5, vdim=7), dict(), 6),
    'padding': (dict(), dict(key_padding_mask=True), 6),
    'mask': (dict(), dict(attn_mask='bool'), 6),
    'mask of each head': (dict(), dict(attn_mask='heads'), 6),
    'both': (dict(), dict(attn_mask='bool', key_padding_mask=True), 6),
    'float mask': (dict(), dict(attn_mask='float'), 6),
}


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('case', HEADS)
def test_multi_head_attention(case, training, calls):
    settings, options, length = HEADS[case]
    options = dict(options)
    query = torch.randn(5, 2, 8)
    key, value = (torch.randn(length, 2, settings.get(n, 8)) for n in ('kdim', 'vdim'))
    if case == 'self':
        key = value = query
    if settings.get('batch_first'):
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    mask = torch.zeros(5, length, dtype=torch.bool)
    mask[1, 3:] = mask[3, :2] = True
    if options.get('key_padding_mask'):
        options['key_padding_mask'] = torch.tensor(
            [[False] * length, [False, True] * (length // 2)]
        )
    if 'attn_mask' in options:
        masks = dict(bool=mask, heads=mask.repeat(4, 1, 1), float=torch.randn(5, length))
        options['attn_mask'] = masks[options['attn_mask']]
    results = []
    for converted in (False, True):
        module = heads(**settings).train(training)
        if converted:
            convert(module, bits=16)
        inputs = [x.clone().requires_grad_(training) for x in (query, key, value)]
        with torch.set_grad_enabled(training):
            out, weights = module(*inputs, **options)
        if training:
            out.square().sum().backward()
        found = [out, *([] if weights is None else [weights])]
        found += [x.grad for x in (*inputs, *module.parameters()) if training]
        results.append([x.detach() for x in found])
    assert calls['matmul'] == (18 if training else 6)
    assert len(results[0]) == len(results[1])
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() < 2e-3 * max(1, float(expected.abs().max()))


def test_unusual_attention_stays_in_float(calls):
    x = torch.randn(5, 2, 8)
    for settings in (dict(add_bias_kv=True), dict(add_zero_attn=True)):
        convert_(heads(**settings))(x, x, x)
    convert_(heads())(x[:, 0], x[:, 0], x[:, 0])
    assert not calls


def test_query_key_and_value_of_one_tensor_may_be_written():
    def function(x):
        qkv = x.view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q = qkv[0]
        q *= 0.5
        return q @ qkv[1].transpose(-2, -1) @ qkv[2]

    x = torch.randn(2, 5, 24)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = in_scope(function, leaves[0] * 1, bits=16), function(leaves[1] * 1)
    for out in outs:
        out.sum().backward()
    assert torch.allclose(*outs, rtol=1e-3, atol=1e-3)
    assert torch.allclose(*(leaf.grad for leaf in leaves), rtol=1e-3, atol=1e-3)


def test_query_key_and_value_of_one_tensor_share_a_gradient_without_sums():
    model, x = Attention(8, 2), torch.randn(2, 8, 3, 3, requires_grad=True)
    grad = torch.randn(2, 9, 8)
    model(x).backward(grad)
    expected = x.grad
    x.grad = model.qkv.weight.grad = model.qkv.bias.grad = None
    convert(model, bits=16)
    with FloatSums() as counter:
        model(x).backward(grad)
    assert counter.count == 0
    torch.testing.assert_close(x.grad, expected, atol=1e-3, rtol=0)
