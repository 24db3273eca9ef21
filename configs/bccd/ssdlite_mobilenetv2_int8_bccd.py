# Float twin: ssdlite_mobilenetv2_bccd.py
_base_ = ['ssdlite_mobilenetv2_bccd.py', '../_base_/int8.py']
