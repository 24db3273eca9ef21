"""What backends raise."""


class NonFiniteError(FloatingPointError):
    """A value that is infinite or not a number reached a mapping."""
