# Float twin: mmdet::pascal_voc/ssd512_voc0712.py
_base_ = ['mmdet::pascal_voc/ssd512_voc0712.py', '../_base_/int8.py']
