# Float twin: resnet18_cifar100.py
_base_ = ['resnet18_cifar100.py', '../_base_/int8.py']
