# Float twin: mmdet::ssd/ssd300_coco.py
_base_ = ['mmdet::ssd/ssd300_coco.py', '../_base_/int8.py']
