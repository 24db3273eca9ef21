# Float twin: ssd300_cityscapes.py
_base_ = ['ssd300_cityscapes.py', '../_base_/int8.py']
