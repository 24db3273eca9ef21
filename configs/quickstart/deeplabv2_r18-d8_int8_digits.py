# Float twin: deeplabv2_r18-d8_digits.py
_base_ = ['deeplabv2_r18-d8_digits.py', '../_base_/int8.py']
