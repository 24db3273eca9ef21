# Float twin: faster-rcnn_r18_fpn_bccd.py
_base_ = ['faster-rcnn_r18_fpn_bccd.py', '../_base_/int8.py']
