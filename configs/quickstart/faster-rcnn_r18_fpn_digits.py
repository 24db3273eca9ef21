# A small Faster R-CNN, trained from scratch on the digits, which are 20 to 56 pixels high.
_base_ = [
    '../_base_/faster-rcnn_r18-w32_fpn.py',
    '../_base_/digits_detection.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    rpn_head=dict(anchor_generator=dict(ratios=[1.0, 2.0])),
    roi_head=dict(bbox_head=dict(num_classes=10)),
)

# 800 images in batches of 8: 600 iterations.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=6, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=6, milestones=[5], gamma=0.1),
]

default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=6, max_keep_ckpts=1))
log_processor = dict(window_size=20)
randomness = dict(seed=0)
