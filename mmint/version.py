"""The version of mmint."""

__version__ = '0.1.0'
