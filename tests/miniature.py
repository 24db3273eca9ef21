"""Miniature data sets on disk, in the formats that the stock OpenMMLab configs read.

After ``make_all(root)`` in the folder ``root``, the stock paths, data/..., lead to data. Every
image is a few coloured rectangles on grey noise; the colour tells the class. Of many classes only
five occur, the first and the last among them.
"""

import colorsys
import json
import pickle
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

TRAIN, VAL, TEST, AUG = range(1, 5), range(5, 7), range(7, 9), range(9, 13)  # numbers of images
VOC_SETS = {'train': TRAIN, 'val': VAL, 'test': TEST}
SIZE = (112, 144)  # a rectangle is at least a quarter as wide: VOC's configs ignore those below 32
COCO_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CITYSCAPES_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
BCCD_CLASSES = ('RBC', 'WBC', 'Platelets')


class Thing(NamedTuple):
    """A rectangle and its class."""

    label: int
    x: int
    y: int
    width: int
    height: int


class Scene(NamedTuple):
    """An RGB image and what is on it."""

    image: np.ndarray
    things: list


def draw_scene(rng, labels, size=SIZE):
    """Three rectangles side by side, each of one of the ``labels``."""
    height, width = size
    image = rng.integers(60, 120, (height, width, 3))
    things = []
    step = width // 3
    for left in range(0, 3 * step, step):
        w, h = rng.integers(3 * step // 4, step), rng.integers(2 * height // 5, 9 * height // 10)
        x, y = left + rng.integers(step - w + 1), rng.integers(height - h + 1)
        thing = Thing(*map(int, (rng.choice(labels), x, y, w, h)))
        image[y : y + h, x : x + w] += colour(thing.label) - 90
        things.append(thing)
    return Scene(image.clip(0, 255).astype(np.uint8), things)


def colour(label):
    """The RGB of a class."""
    return (255 * np.array(colorsys.hsv_to_rgb(label * 0.618 % 1, 0.8, 0.9))).astype(int)


def spread(classes):
    """The labels that occur, of so many classes."""
    return np.unique(np.linspace(0, len(classes) - 1, 5).round().astype(int))


def semantic_map(scene, background, first, ignored):
    """The class of every pixel, ``first`` for label 0, ``ignored`` on the rims."""
    classes = np.full(scene.image.shape[:2], background, np.uint8)
    for label, x, y, w, h in scene.things:
        classes[y : y + h, x : x + w] = ignored
        classes[y + 2 : y + h - 2, x + 2 : x + w - 2] = first + label
    return classes


def make_all(root):
    """Every data set."""
    make_coco(root)
    make_voc(root)
    make_cityscapes(root)
    make_coco_stuff10k(root)
    make_ade20k(root)
    make_cifar10(root)
    make_cifar100(root)
    make_cifar10_jpeg(root)
    make_imagenet(root)
    make_bccd(root)


def make_coco(root):
    """COCO 2017: boxes and polygons."""
    from mmdet.datasets import CocoDataset

    folder, rng = root / 'data/coco', np.random.default_rng(0)
    categories = dict(zip(COCO_IDS, CocoDataset.METAINFO['classes'], strict=True))
    for split, numbers in (('train2017', TRAIN), ('val2017', VAL)):
        scenes = {f'{n:012d}.jpg': draw_scene(rng, spread(categories)) for n in numbers}
        for name, scene in scenes.items():
            write_image(folder / split / name, scene.image)
        write_coco(folder / f'annotations/instances_{split}.json', scenes, categories)


def make_voc(root):
    """PASCAL VOC 2007 and 2012: boxes; of 2012 semantic maps too, the augmented ones among them."""
    from mmdet.datasets import VOCDataset

    folder, rng = root / 'data/VOCdevkit', np.random.default_rng(0)
    classes = VOCDataset.METAINFO['classes']

    def draw(form, numbers):
        return {form.format(n): draw_scene(rng, spread(classes)) for n in numbers}

    for year, form in (('VOC2007', '{:06d}'), ('VOC2012', '2008_{:06d}')):
        sets = {split: draw(form, numbers) for split, numbers in VOC_SETS.items()}
        write_voc(folder / year, sets, classes)
    folder = folder / 'VOC2012'
    palette = [int(value) for index in range(256) for value in colour(index)]
    for split, scenes, maps, colours in (
        ('train', sets['train'], 'SegmentationClass', palette),
        ('val', sets['val'], 'SegmentationClass', palette),
        ('aug', draw(form, AUG), 'SegmentationClassAug', None),
    ):
        write_lines(folder / f'ImageSets/Segmentation/{split}.txt', scenes)
        for name, scene in scenes.items():
            write_image(folder / f'JPEGImages/{name}.jpg', scene.image)
            write_image(folder / maps / f'{name}.png', semantic_map(scene, 0, 1, 255), colours)


def make_cityscapes(root):
    """Cityscapes: boxes, polygons and semantic maps of the same images."""
    from mmdet.datasets import CityscapesDataset

    folder, rng = root / 'data/cityscapes', np.random.default_rng(0)
    categories = dict(zip(CITYSCAPES_IDS, CityscapesDataset.METAINFO['classes'], strict=True))
    for split, city, numbers in (('train', 'aachen', TRAIN), ('val', 'frankfurt', VAL)):
        scenes = {}
        for n in numbers:
            scene = draw_scene(rng, spread(categories), (80, 160))
            name = f'{city}/{city}_{n:06d}_000019'
            image, classes = f'{name}_leftImg8bit.png', f'{name}_gtFine_labelTrainIds.png'
            write_image(folder / 'leftImg8bit' / split / image, scene.image)
            write_image(folder / 'gtFine' / split / classes, semantic_map(scene, 0, 11, 255))
            scenes[image] = scene
        path = folder / f'annotations/instancesonly_filtered_gtFine_{split}.json'
        write_coco(path, scenes, categories)


def make_coco_stuff10k(root):
    """COCO-Stuff 10k: semantic maps as mmseg's converter writes them."""
    from mmseg.datasets import COCOStuffDataset

    splits = {
        split: [f'COCO_train2014_{n:012d}' for n in numbers]
        for split, numbers in (('train2014', TRAIN), ('test2014', VAL))
    }
    classes = COCOStuffDataset.METAINFO['classes']
    write_semantic(root / 'data/coco_stuff10k', splits, classes, 'grass', '_labelTrainIds')


def make_ade20k(root):
    """ADE20K: semantic maps."""
    from mmseg.datasets import ADE20KDataset

    splits = {
        'training': [f'ADE_train_{n:08d}' for n in TRAIN],
        'validation': [f'ADE_val_{n:08d}' for n in VAL],
    }
    classes = ADE20KDataset.METAINFO['classes']
    write_semantic(root / 'data/ade/ADEChallengeData2016', splits, classes, 'sky')


def make_cifar10(root):
    """CIFAR-10 as Python pickles; see `accept_cifar`."""
    from mmpretrain.datasets import CIFAR10

    write_cifar(root / 'data/cifar10', CIFAR10, 'labels')


def make_cifar100(root):
    """CIFAR-100 as Python pickles; see `accept_cifar`."""
    from mmpretrain.datasets import CIFAR100

    write_cifar(root / 'data/cifar100', CIFAR100, 'fine_labels')


def accept_cifar(monkeypatch):
    """Lets mmpretrain's classes read pickles whose MD5 sums are not the original ones."""
    from mmpretrain.datasets import CIFAR10, CIFAR100

    for dataset in (CIFAR10, CIFAR100):
        for files in ('train_list', 'test_list'):
            unchecked = [[name, None] for name, _ in getattr(dataset, files)]
            monkeypatch.setattr(dataset, files, unchecked)


def make_cifar10_jpeg(root):
    """CIFAR-10 as JPEG files in a folder per class: one of every class, for the folders count."""
    from mmpretrain.datasets import CIFAR10

    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        for label, name in enumerate(CIFAR10.METAINFO['classes']):
            scene = draw_scene(rng, [label], (32, 32))
            write_image(root / 'data/cifar10' / split / name / '0000.jpg', scene.image)


def make_imagenet(root):
    """ImageNet with the lists in meta/, without which each of 1000 folders would have to exist."""
    from mmpretrain.datasets import ImageNet

    folder, rng = root / 'data/imagenet', np.random.default_rng(0)
    labels = spread(ImageNet.METAINFO['classes'])
    for split, form, numbers in (
        ('train', 'n{label:08d}/n{label:08d}_{n}.JPEG', TRAIN),
        ('val', 'ILSVRC2012_val_{n:08d}.JPEG', VAL),
    ):
        lines = []
        for n in numbers:
            label = labels[n % len(labels)]
            name = form.format(label=label, n=n)
            write_image(folder / split / name, draw_scene(rng, [label]).image)
            lines.append(f'{name} {label}')
        write_lines(folder / f'meta/{split}.txt', lines)


def make_bccd(root):
    """BCCD's blood cells: a VOC folder, with an empty box in its first file, as BCCD has."""
    rng = np.random.default_rng(0)
    sets = {
        split: {
            f'BloodImage_{n - 1:05d}': draw_scene(rng, spread(BCCD_CLASSES), (480, 640))
            for n in numbers
        }
        for split, numbers in VOC_SETS.items()
    }
    sets['train']['BloodImage_00000'].things.append(Thing(0, 320, 240, 1, 1))
    write_voc(root / 'data/bccd/BCCD', sets, BCCD_CLASSES)


def write_image(path, image, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def write_coco(path, scenes, categories):
    """The JSON of ``scenes``, by file name; ``categories`` holds id and name of every label."""
    ids = list(categories)
    images, annotations = [], []
    for number, (name, scene) in enumerate(scenes.items(), 1):
        height, width = scene.image.shape[:2]
        images.append({'id': number, 'file_name': name, 'height': height, 'width': width})
        for label, x, y, w, h in scene.things:
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number,
                    'category_id': ids[label],
                    'bbox': [x, y, w, h],
                    'area': w * h,
                    'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    'iscrowd': 0,
                }
            )
    categories = [{'id': number, 'name': name} for number, name in categories.items()]
    coco = {'images': images, 'annotations': annotations, 'categories': categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco))


def write_voc(folder, sets, classes):
    """Images, boxes and lists of one year of VOC; ``sets`` holds scenes by split and name."""
    sets = sets | {'trainval': sets['train'] | sets['val']}
    for split, scenes in sets.items():
        write_lines(folder / f'ImageSets/Main/{split}.txt', scenes)
        for name, scene in scenes.items():
            write_image(folder / f'JPEGImages/{name}.jpg', scene.image)
            write_xml(folder / f'Annotations/{name}.xml', scene, classes)


def write_xml(path, scene, classes):
    """A VOC annotation file; its coordinates count from 1, and xmax and ymax are inside the box."""
    height, width, depth = scene.image.shape
    root = ElementTree.Element('annotation')
    add(root, filename=f'{path.stem}.jpg')
    add(ElementTree.SubElement(root, 'size'), width=width, height=height, depth=depth)
    for label, x, y, w, h in scene.things:
        thing = ElementTree.SubElement(root, 'object')
        add(thing, name=classes[label], truncated=0, difficult=0)
        box = ElementTree.SubElement(thing, 'bndbox')
        add(box, xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path)


def add(element, **fields):
    for name, value in fields.items():
        ElementTree.SubElement(element, name).text = str(value)


def write_semantic(folder, splits, classes, background, suffix=''):
    """Images and maps where 0 is no class and class i is i + 1."""
    rng = np.random.default_rng(0)
    for split, names in splits.items():
        for name in names:
            scene = draw_scene(rng, spread(classes))
            semantic = semantic_map(scene, classes.index(background) + 1, 1, 0)
            write_image(folder / 'images' / split / f'{name}.jpg', scene.image)
            write_image(folder / 'annotations' / split / f'{name}{suffix}.png', semantic)


def write_cifar(folder, dataset, key):
    """The pickles that mmpretrain's class reads, rows of 3 x 32 x 32; the last may be empty."""
    rng = np.random.default_rng(0)
    classes = dataset.METAINFO['classes']
    labels = spread(classes).tolist()
    folder = folder / dataset.base_folder
    folder.mkdir(parents=True, exist_ok=True)
    for files, numbers in ((dataset.train_list, TRAIN), (dataset.test_list, VAL)):
        for (name, _), part in zip(files, np.array_split(numbers, len(files)), strict=True):
            chosen = [labels[n % len(labels)] for n in part]
            images = [draw_scene(rng, [label], (32, 32)).image for label in chosen]
            rows = np.array(images, np.uint8).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
            data = {'data': rows.reshape(-1, 3 * 32 * 32), key: chosen}
            (folder / name).write_bytes(pickle.dumps(data))
    meta = pickle.dumps({dataset.meta['key']: list(classes)})
    (folder / dataset.meta['filename']).write_bytes(meta)
