"""Data sets and compatibility pieces that exist only for OpenMMLab."""
