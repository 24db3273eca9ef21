# Float twin: vit-base-p16_cifar10.py
_base_ = ['vit-base-p16_cifar10.py', '../_base_/int8.py']
