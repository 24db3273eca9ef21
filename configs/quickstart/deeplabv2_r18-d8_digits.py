# A small DeepLab V2 that segments the digits, from scratch: a ResNet-18 of half width and output
# stride 8, batch norm that trains, and rates that suit 16x16 features.
_base_ = [
    '../_base_/deeplab_r101-d8.py',
    '../_base_/digits_segmentation.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    pretrained=None,
    backbone=dict(
        depth=18,
        base_channels=32,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
    ),
    decode_head=dict(in_channels=256, num_classes=11, dilations=(1, 2, 4, 6)),
)

# 800 images in batches of 8.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1500, val_interval=1500)
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=1e-4), paramwise_cfg=dict(_delete_=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=50, end=1500, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=1500))
randomness = dict(seed=0)
