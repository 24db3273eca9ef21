# Float twin: mmpretrain::resnet/resnet18_8xb16_cifar10.py
_base_ = 'resnet18_int8_cifar10.py'
integer = dict(bits=5)
