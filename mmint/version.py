"""The version of mmint."""

__version__ = '0.2.0'
