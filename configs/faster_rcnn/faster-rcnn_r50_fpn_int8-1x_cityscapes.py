# Float twin: mmdet::cityscapes/faster-rcnn_r50_fpn_1x_cityscapes.py
_base_ = ['mmdet::cityscapes/faster-rcnn_r50_fpn_1x_cityscapes.py', '../_base_/int8.py']
