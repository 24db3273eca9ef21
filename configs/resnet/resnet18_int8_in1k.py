# Float twin: mmpretrain::resnet/resnet18_8xb32_in1k.py
_base_ = ['mmpretrain::resnet/resnet18_8xb32_in1k.py', '../_base_/int8.py']
