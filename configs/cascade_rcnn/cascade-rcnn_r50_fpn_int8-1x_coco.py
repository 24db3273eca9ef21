# Float twin: mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py
_base_ = ['mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', '../_base_/int8.py']
