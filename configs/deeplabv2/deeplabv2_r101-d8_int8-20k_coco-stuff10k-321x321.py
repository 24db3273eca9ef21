# Float twin: deeplabv2_r101-d8_20k_coco-stuff10k-321x321.py
_base_ = ['deeplabv2_r101-d8_20k_coco-stuff10k-321x321.py', '../_base_/int8.py']
