"""Data sets that mmint makes or reads."""
