# Float twin: mmdet::detr/detr_r50_8xb2-150e_coco.py
_base_ = ['mmdet::detr/detr_r50_8xb2-150e_coco.py', '../_base_/int8.py']
