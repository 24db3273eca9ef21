# Float twin: mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py
_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/int8.py']
