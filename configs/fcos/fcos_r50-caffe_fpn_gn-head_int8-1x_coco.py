# Float twin: mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/int8.py']
