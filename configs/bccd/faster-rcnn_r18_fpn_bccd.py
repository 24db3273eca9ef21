# A small Faster R-CNN on blood cells, from scratch.
_base_ = [
    '../_base_/faster-rcnn_r18-w32_fpn.py',
    '../_base_/bccd.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))

# 292 images in batches of 8: 37 iterations an epoch.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=24, val_interval=24)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=24, milestones=[16, 22], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=24))
randomness = dict(seed=0)
