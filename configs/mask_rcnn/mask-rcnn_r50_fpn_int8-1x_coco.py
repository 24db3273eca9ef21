# Float twin: mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/int8.py']
