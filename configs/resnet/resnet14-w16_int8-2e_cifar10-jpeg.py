# Float twin: resnet14-w16_2e_cifar10-jpeg.py
_base_ = ['resnet14-w16_2e_cifar10-jpeg.py', '../_base_/int8.py']
