# Float twin: mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512.py
_base_ = ['mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512.py', '../_base_/int8.py']
