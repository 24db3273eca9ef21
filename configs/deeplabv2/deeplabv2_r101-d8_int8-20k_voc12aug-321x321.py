# Float twin: deeplabv2_r101-d8_20k_voc12aug-321x321.py
_base_ = ['deeplabv2_r101-d8_20k_voc12aug-321x321.py', '../_base_/int8.py']
