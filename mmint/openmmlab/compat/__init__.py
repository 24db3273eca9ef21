"""What OpenMMLab needs to know, or to have mended, before integers train its models."""
