# Float twin: mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py
_base_ = ['mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', '../_base_/int8.py']
