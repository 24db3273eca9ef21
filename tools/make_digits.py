"""Write the digits data set: `python tools/make_digits.py --out data/digits`."""

import argparse

from mmint.openmmlab.datasets.digits import DigitsSettings, make_digits


def main() -> None:
    """Read the command line and write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='data/digits', help='folder to write')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train', type=int, default=800, help='training images')
    parser.add_argument('--val', type=int, default=200, help='validation images')
    parser.add_argument('--size', type=int, default=128, help='height and width in pixels')
    args = parser.parse_args()
    try:
        settings = DigitsSettings(args.seed, args.train, args.val, args.size)
        written = make_digits(args.out, settings)
    except (ValueError, OSError) as error:
        parser.exit(2, f'{error}\n')
    if written:
        print(f'{args.out}: wrote {args.train} training and {args.val} validation images')
    else:
        print(f'{args.out}: there already, left as it is')


if __name__ == '__main__':
    main()
