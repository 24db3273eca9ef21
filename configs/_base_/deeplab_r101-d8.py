# DeepLab V1 and V2 (Chen et al., TPAMI 2018): a ResNet-101 of output stride 8 whose batch norm is
# frozen. A config that inherits it says how large the crops are, and which dilated convolutions the
# head sums.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained='torchvision://resnet101',
    backbone=dict(
        type='ResNet',
        depth=101,
        num_stages=4,
        out_indices=(3,),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='pytorch',
    ),
    decode_head=dict(
        type='mmint.openmmlab.models.deeplab_head.DeepLabHead',
        in_channels=2048,
        in_index=0,
        dropout_ratio=0,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

# The solver released for ResNet-101: batches of 10, 20,000 iterations, ten times the rate for the
# classifier's weights, twenty times and no decay for its biases. Left out are inputs of several
# scales, the pretraining on COCO and the CRF.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=2.5e-4, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        custom_keys=dict(bias=dict(lr_mult=20, decay_mult=0), head=dict(lr_mult=10))
    ),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=20000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2000))
