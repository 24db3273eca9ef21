"""Optimizers in integer arithmetic."""

from .sgd import IntSGD

__all__ = ['IntSGD']
