"""Models that OpenMMLab lacks."""
