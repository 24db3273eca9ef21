# Float twin: mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py
_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', '../_base_/int8.py']
