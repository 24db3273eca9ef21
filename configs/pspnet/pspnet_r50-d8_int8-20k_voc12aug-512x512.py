# Float twin: mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py
_base_ = ['mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py', '../_base_/int8.py']
