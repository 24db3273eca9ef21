"""Which arithmetic of a training step is integer, and how much noise its rounding adds."""

from .isolation import Isolation
from .recorder import Recorder
from .report import Report
from .spread import Spread

__all__ = ['Isolation', 'Recorder', 'Report', 'Spread']
