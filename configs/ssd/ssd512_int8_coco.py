# Float twin: mmdet::ssd/ssd512_coco.py
_base_ = ['mmdet::ssd/ssd512_coco.py', '../_base_/int8.py']
