# Float twin: mmpretrain::resnet/resnet18_8xb16_cifar10.py
_base_ = ['mmpretrain::resnet/resnet18_8xb16_cifar10.py', '../_base_/int8.py']
