"""Integer operations, once for each kind of device, with the same bits on all."""
