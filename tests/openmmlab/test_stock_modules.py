"""Stock modules that a conversion alone does not make trainable in integers."""

import copy
import re

import pytest
import torch
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from synthetic_step import Step, without_weights

import mmint
from mmint.conversion import convert, format_report
from mmint.openmmlab.engine.runner import to_integer


def integer(name, **settings):
    """A stock config of integers, without pretrained weights."""
    cfg = get_config(name)
    without_weights(cfg.model)
    cfg.integer = dict(bits=8, **settings)
    return cfg


@pytest.mark.slow
def test_segnexts_matrix_factorisation_trains_at_8_bits(fresh_run):
    """Its denominators round to zero at few bits, so its class asks for more."""
    cfg = integer('mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py')
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.update(depths=[1, 1, 1, 1])
    step = Step(to_integer(cfg), 2, (64, 64))
    head = step.model.decode_head.hamburger
    assert head.ham.forward.bits == 16 and head.ham_in.conv.bits == 8
    step()
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())
    state = step.optim_wrapper.optimizer.state
    assert state[head.ham_in.conv.weight]['exp_avg'].any()  # through the factorisation


def test_the_factorisation_has_gradients_and_the_table_shows_its_bits(fresh_run):
    from mmseg.models.decode_heads.ham_head import Hamburger

    model = Hamburger(8, dict(MD_R=4), dict(type='GN', num_groups=2))
    table = format_report(convert(model))
    assert re.search(r'NMF2D +class kept +partly integer +16 +free +1 +0 +ham', table)
    model(torch.randn(2, 8, 6, 6)).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def revvit(reversible):
    """A reversible vision transformer of two blocks and its gradients after a step."""
    from mmpretrain.models import RevVisionTransformer

    torch.manual_seed(0)
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    model = RevVisionTransformer(arch, 32, 8, no_custom_backward=not reversible)
    torch.nn.init.normal_(model.pos_embed)
    convert(model)
    mmint.begin_iteration(0)
    (out,) = model(torch.randn(2, 3, 32, 32))
    out.square().sum().backward()
    return model, out.detach(), {n: p.grad for n, p in model.named_parameters()}


def test_a_reversible_transformer_trains_in_integers(fresh_run):
    model, out, grads = revvit(True)
    _, expected, others = revvit(False)
    assert torch.equal(out, expected)
    for name, grad in grads.items():
        assert (grad - others[name]).norm() <= 0.02 * others[name].norm(), name
    block = model.layers[0]
    assert block.forward.bits is None and block.ffn.layers[1].bits == 8


def test_a_distillation_teacher_is_listed_and_converted_by_its_name():
    pytest.importorskip('mmdet')
    init_default_scope('mmdet')
    cfg = get_config('mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py').model
    without_weights(cfg)
    cfg.teacher_ckpt = None
    for part in (cfg, dict(backbone=cfg.teacher_backbone, neck=cfg.teacher_neck)):
        part['backbone'].update(depth=18)
        part['neck'].in_channels = [64, 128, 256, 512]
    model = MODELS.build(cfg)
    other = copy.deepcopy(model)
    assert re.search(
        r'Module +not registered +float +1 +[\d,]+ +teacher_model', format_report(convert(model))
    )
    report = convert(other, include=['*', 'teacher_model'])
    assert not [entry for entry in report if entry.after == 'not registered']
    layers = [entry for entry in report if entry.name.startswith('teacher_model.')]
    assert layers and all(entry.bits in (8, None) for entry in layers)
