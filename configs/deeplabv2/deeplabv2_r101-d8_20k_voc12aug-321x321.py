# DeepLab V2: four convolutions of rates 6 to 24, summed. The rest is V1's.
_base_ = '../deeplabv1/deeplabv1_r101-d8_20k_voc12aug-321x321.py'
model = dict(decode_head=dict(dilations=(6, 12, 18, 24)))
