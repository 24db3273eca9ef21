"""The synthetic batch has what the config's own pipeline packs, at the size that was asked for."""

import pytest
import torch
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from synthetic_batch import synthetic_batch
from synthetic_step import fit_to

SIZE = (64, 96)


def batch_of(name, size=SIZE, images=2):
    cfg = get_config(name)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return synthetic_batch(cfg, images, size)


def test_instance_segmenters_get_masks_of_their_boxes():
    batch = batch_of('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    assert [image.shape for image in batch['inputs']] == [(3, *SIZE)] * 2
    truth = batch['data_samples'][0].gt_instances
    assert truth.masks.masks.shape == (5, *SIZE)
    for mask, (left, top, right, bottom) in zip(
        truth.masks.masks, truth.bboxes.tensor, strict=True
    ):
        rows, columns = mask.nonzero()
        assert left - 1 <= columns.min() and columns.max() <= right + 1
        assert top - 1 <= rows.min() and rows.max() <= bottom + 1


def test_panoptic_segmenters_get_things_and_stuff():
    batch = batch_of('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py')
    sample = batch['data_samples'][0]
    labels = sample.gt_sem_seg.sem_seg.unique()
    assert sample.gt_sem_seg.sem_seg.shape == (1, *SIZE)
    assert (labels < 80).any() and (labels >= 80).any() and labels.max() < 133
    assert len(sample.gt_instances.masks) == 5


def test_fast_rcnn_gets_proposals():
    proposals = batch_of('mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py')['data_samples'][
        0
    ].proposals
    assert proposals.bboxes.shape == (5, 4) and proposals.scores.shape == (5,)


def test_semi_supervised_detectors_get_their_branches():
    name = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    batch = batch_of(name)
    assert set(batch['inputs']) == {'sup', 'unsup_teacher', 'unsup_student'}
    assert [image is None for image in batch['inputs']['sup']] == [False, True]


def test_models_of_identities_get_several_images_of_each():
    batch = batch_of('mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py')
    assert [images.shape for images in batch['inputs']] == [(2, 3, *SIZE)] * 2
    assert batch['data_samples'][0].gt_label.label.shape == (2,)


def test_segmenters_get_a_map_and_pad_to_the_size_that_was_asked_for():
    name = 'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'
    sample = batch_of(name)['data_samples'][0]
    assert sample.gt_sem_seg.data.shape == (1, *SIZE)
    model = get_config(name).model
    assert model.data_preprocessor.size == (512, 512)
    fit_to(SIZE, model)
    assert model.data_preprocessor.size == SIZE


def test_a_backbone_of_one_size_gets_the_size_that_was_asked_for():
    model = get_config('mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py').model
    fit_to(SIZE, model)
    assert model.backbone.img_size == SIZE


def test_self_supervised_models_get_views_and_masked_patches():
    views = batch_of('mmpretrain::simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py', None)['inputs']
    assert [view.shape for view in views] == [(2, 3, 224, 224)] * 2
    assert not torch.equal(*views)
    batch = batch_of('mmpretrain::beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py', None)
    assert [view.shape[-1] for view in batch['inputs']] == [224, 112]
    assert batch['data_samples'][0].mask.shape == (14, 14)


def test_classifiers_get_labels_of_their_kind_and_images_of_the_pipelines_size():
    batch = batch_of('mmpretrain::resnet/resnet50_8xb32_in1k.py', None)
    assert [image.shape for image in batch['inputs']] == [(3, 224, 224)] * 2
    assert batch['data_samples'][0].gt_label.shape == (1,)
    batch = batch_of('mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py', None)
    assert [image.shape for image in batch['inputs']] == [(3, 448, 448)] * 2
    assert batch['data_samples'][0].gt_label.shape == (1,)  # a list of labels
    lenet = batch_of('mmpretrain::lenet/lenet5_mnist.py', None)
    assert [image.shape for image in lenet['inputs']] == [(1, 32, 32)] * 2


def test_a_size_that_is_asked_for_is_that_of_every_view():
    views = batch_of('mmpretrain::simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py')['inputs']
    assert [view.shape for view in views] == [(2, 3, *SIZE)] * 2


def test_a_config_without_a_pipeline_is_refused():
    with pytest.raises(SystemExit, match='no `pipeline` in the data set'):
        batch_of('mmpretrain::sam/vit-base-p16_sam_headless.py')
