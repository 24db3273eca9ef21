"""The digits as a data set of mmsegmentation; see :mod:`mmint.openmmlab.datasets.digits`."""

import os

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .digits import CLASSES, PALETTE, missing_digits


@DATASETS.register_module()
class DigitsSegDataset(BaseSegDataset):
    """Handwritten digits on photographs: background and ten digits, no label ignored."""

    METAINFO = {
        'classes': ('background', *CLASSES),
        'palette': [[0, 0, 0], *map(list, PALETTE)],
    }

    def __init__(self, img_suffix: str = '.png', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images and masks, or say which is missing and how to make it."""
        root = self.data_root or 'data/digits'
        for folder in filter(None, self.data_prefix.values()):
            if not os.path.isdir(folder):
                raise missing_digits(folder, root)
        data = super().load_data_list()
        for item in data:
            mask = item.get('seg_map_path')
            if mask and not os.path.isfile(mask):
                raise missing_digits(mask, root)
        return data
