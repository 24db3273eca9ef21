# Float twin: mmdet::yolox/yolox_tiny_8xb8-300e_coco.py
_base_ = ['mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', '../_base_/int8.py']
