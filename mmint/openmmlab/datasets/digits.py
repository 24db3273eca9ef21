"""Handwritten digits as a detection and segmentation set that needs no download.

scikit-learn ships 1,797 scanned digits of 8x8 pixels and two photographs. Every image here is a
dimmed crop of a photograph with two to six of those scans on it, enlarged, warped and tinted.
Each is drawn from its own random stream, (seed, split, index), so its pixels do not depend on how
many others are made. The files are ordinary COCO JSON, PNG images and PNG masks::

    OUT/settings.json
    OUT/annotations/{train,val}.json     boxes, RLE masks, and `scan`: which scan was used
    OUT/{train,val}/000000.png           images
    OUT/masks/{train,val}/000000.png     0 background, digit + 1 elsewhere
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

CLASSES = tuple('0123456789')
PALETTE = [
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (170, 110, 40),
]
SPLITS = ('train', 'val')
MIN_VISIBLE = 0.9  # of every digit, after later ones are painted over it
MAX_IOU = 0.1  # between any two boxes


@dataclass(frozen=True)
class DigitsSettings:
    """What the files depend on.

    Args:
        seed: Of the scans' split and of every image.
        train: Number of training images.
        val: Number of validation images.
        size: Height and width of an image; digits are 20 to 56 pixels high at 128 and scale along.
    """

    seed: int = 0
    train: int = 800
    val: int = 200
    size: int = 128
    version: int = 1

    def __post_init__(self) -> None:
        limits = {'seed': (0, 2**32), 'train': (1, 10**6), 'val': (1, 10**6), 'size': (64, 427)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f'digits: {name} is {getattr(self, name)}, it must lie in {low}..{high}.'
                )


class Digit(NamedTuple):
    """One scan placed on an image."""

    scan: int
    label: int
    mask: np.ndarray  # bool, the visible pixels


def missing_digits(path: str | os.PathLike, root: str | os.PathLike) -> FileNotFoundError:
    """The error for a file of the set that is not there."""
    return FileNotFoundError(
        f'{path} does not exist: make the digits data set with '
        f'`python tools/make_digits.py --out {root}`.'
    )


def make_digits(out: str | os.PathLike, settings: DigitsSettings | None = None) -> bool:
    """Write the data set to ``out``, all of it or nothing.

    Args:
        out: Folder to make. If it holds the same data set already, it is left as it is.
        settings: What to make, the defaults if None.

    Returns:
        True if the files were written, False if they were there already.

    Raises:
        FileExistsError: ``out`` holds something else.
    """
    out, settings = Path(out).absolute(), settings or DigitsSettings()
    if _is_there(out, settings):
        return False
    partial = out.with_name(f'.{out.name}.{os.getpid()}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_all(partial, settings)
        try:
            os.replace(partial, out)
        except OSError:  # somebody else was quicker
            if not _is_there(out, settings):
                raise
            return False
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _is_there(out: Path, settings: DigitsSettings) -> bool:
    """True: this very set; False: nothing; anything else is an error."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    advice = 'remove it or choose another folder'
    try:
        found = json.loads((out / 'settings.json').read_text())
    except (OSError, ValueError):
        raise FileExistsError(f'{out} exists and is no digits data set: {advice}.') from None
    if found != asdict(settings):
        raise FileExistsError(
            f'{out} holds a digits data set of other settings ({_brief(found)}, not '
            f'{_brief(asdict(settings))}): {advice}.'
        )
    for path in _files(settings):
        if not (out / path).is_file():
            raise FileExistsError(f'{out} holds a digits data set without its {path}: {advice}.')
    return True


def _brief(settings: object) -> str:
    return ', '.join(f'{k} {v}' for k, v in settings.items()) if isinstance(settings, dict) else '?'


def _files(settings: DigitsSettings) -> Iterator[str]:
    for split in SPLITS:
        yield f'annotations/{split}.json'
        for index in range(getattr(settings, split)):
            yield f'{split}/{index:06d}.png'
            yield f'masks/{split}/{index:06d}.png'


def _write_all(folder: Path, settings: DigitsSettings) -> None:
    from sklearn.datasets import load_digits, load_sample_images

    data = load_digits()
    scans = [_enlarge(scan) for scan in data.images]
    photos = load_sample_images().images
    (folder / 'annotations').mkdir(parents=True)
    for number, (split, ids) in enumerate(
        zip(SPLITS, _split_scans(data.target, settings.seed), strict=True)
    ):
        (folder / split).mkdir()
        (folder / 'masks' / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(getattr(settings, split)):
            rng = np.random.default_rng([settings.seed, number, index])
            image, digits = _compose(rng, photos, scans, data.target, ids, settings.size)
            semantic = np.zeros(image.shape[:2], np.uint8)
            for digit in digits:
                semantic[digit.mask] = digit.label + 1
                annotations.append(_annotation(digit, index, len(annotations) + 1))
            name = f'{index:06d}.png'
            _write_png(folder / split / name, image[:, :, ::-1])
            _write_png(folder / 'masks' / split / name, semantic)
            images.append(
                {'id': index, 'file_name': name, 'height': settings.size, 'width': settings.size}
            )
        categories = [{'id': i + 1, 'name': name} for i, name in enumerate(CLASSES)]
        coco = {'images': images, 'annotations': annotations, 'categories': categories}
        (folder / 'annotations' / f'{split}.json').write_text(json.dumps(coco))
    (folder / 'settings.json').write_text(json.dumps(asdict(settings), indent=2) + '\n')


def _write_png(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def _split_scans(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the scans for train and val: of every digit, one in five goes to val."""
    rng = np.random.default_rng(seed)
    train, val = [], []
    for label in range(10):
        ids = rng.permutation(np.flatnonzero(labels == label))
        val.append(ids[: len(ids) // 5])
        train.append(ids[len(ids) // 5 :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def _enlarge(scan: np.ndarray) -> np.ndarray:
    """An 8x8 scan as a smooth 64x64 picture of ink in 0..1, with a margin of 8 all around."""
    big = cv2.resize(scan.astype(np.float32) / 16, (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.pad(big.clip(0, 1), 8)


def _compose(
    rng: np.random.Generator,
    photos: list[np.ndarray],
    scans: list[np.ndarray],
    labels: np.ndarray,
    ids: np.ndarray,
    size: int,
) -> tuple[np.ndarray, list[Digit]]:
    """One RGB image and the digits on it, the one on top last."""
    image = _background(rng, photos, size)
    digits: list[Digit] = []
    wanted = rng.integers(2, 7)
    for _ in range(60):
        if len(digits) == wanted:
            break
        scan = int(rng.choice(ids))
        alpha = _warp(rng, scans[scan], rng.uniform(20, 56) * size / 128)
        height, width = alpha.shape
        if height > size or width > size:
            continue
        y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        mask = np.zeros((size, size), bool)
        mask[y : y + height, x : x + width] = alpha > 0.5
        if not mask.any() or not _fits(mask, digits):
            continue
        patch = image[y : y + height, x : x + width]
        ink = rng.uniform(150, 255, 3).astype(np.float32)  # light, on a photo that is dimmed
        patch += alpha[:, :, None] * (ink - patch)
        digits = [d._replace(mask=d.mask & ~mask) for d in digits]
        digits.append(Digit(scan, int(labels[scan]), mask))
    image += rng.normal(0, rng.uniform(0, 6), image.shape)
    return image.round().clip(0, 255).astype(np.uint8), digits


def _background(rng: np.random.Generator, photos: list[np.ndarray], size: int) -> np.ndarray:
    """A random crop of a photograph, dimmed, float32 in 0..255."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(size // 2, min(2 * size, *photo.shape[:2]) + 1))
    y = rng.integers(0, photo.shape[0] - side + 1)
    x = rng.integers(0, photo.shape[1] - side + 1)
    crop = photo[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    crop = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=how)
    return crop.astype(np.float32) * np.float32(rng.uniform(0.3, 0.5))


def _warp(rng: np.random.Generator, ink: np.ndarray, height: float) -> np.ndarray:
    """The scan rotated, sheared and bent, as opacity in 0..1, cropped to what is visible."""
    side = int(np.ceil(1.6 * height))
    angle, shear = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15)
    scale = 64 / height * rng.uniform(0.9, 1.1, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.diag(scale) @ turn @ np.array([[1, shear], [0, 1]])
    grid = np.mgrid[:side, :side].reshape(2, -1)[::-1] - (side - 1) / 2
    source = (matrix @ grid).reshape(2, side, side) + (ink.shape[0] - 1) / 2
    bend = cv2.resize(rng.normal(0, 1.5, (4, 4, 2)), (side, side), interpolation=cv2.INTER_CUBIC)
    source = (source + bend.transpose(2, 0, 1)).astype(np.float32)
    warped = cv2.remap(ink, source[0], source[1], cv2.INTER_LINEAR)
    sharp = rng.uniform(2, 4)  # 8x8 pixels leave soft edges: steepen them
    alpha = ((warped - 0.5) * sharp + 0.5).clip(0, 1)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fits(mask: np.ndarray, digits: list[Digit]) -> bool:
    """Whether a new digit leaves those below it visible, and its box apart from theirs."""
    box = _box(mask)
    for digit in digits:
        visible = digit.mask & ~mask
        if visible.sum() < MIN_VISIBLE * digit.mask.sum() or _iou(box, _box(visible)) > MAX_IOU:
            return False
    return True


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of the smallest box around the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def _annotation(digit: Digit, image_id: int, number: int) -> dict:
    runs = np.flatnonzero(np.diff(digit.mask.T.ravel(), prepend=False, append=False))
    counts = np.diff(runs, prepend=0, append=digit.mask.size)
    if counts[-1] == 0:
        counts = counts[:-1]
    return {
        'id': number,
        'image_id': image_id,
        'category_id': digit.label + 1,
        'bbox': list(_box(digit.mask)),
        'area': int(digit.mask.sum()),
        'segmentation': {'size': list(digit.mask.shape), 'counts': counts.tolist()},
        'iscrowd': 0,
        'scan': digit.scan,
    }
