"""What exists only for OpenMMLab: engine, compatibility, data sets, models."""

from .compat import change_other_packages

change_other_packages()
