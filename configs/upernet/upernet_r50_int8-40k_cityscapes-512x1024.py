# Float twin: mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py
_base_ = ['mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py', '../_base_/int8.py']
