"""What backends do alike before and after their kernels: checks, arguments, the kinds of norm."""
