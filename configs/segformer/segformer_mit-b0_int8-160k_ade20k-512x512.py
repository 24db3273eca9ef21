# Float twin: mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py
_base_ = ['mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', '../_base_/int8.py']
