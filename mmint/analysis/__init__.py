"""The audit: which arithmetic of a training step is integer, and which float remains."""

from .recorder import Recorder
from .report import Report

__all__ = ['Recorder', 'Report']
