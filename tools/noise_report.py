"""What noise.py found: a table, a picture and all numbers."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from mmint.analysis.isolation import PARTS
from mmint.analysis.spread import Gradients, Spread

WEAK = 1.7  # times its rounding noise: a gradient that is weaker says little
COLOURS = dict(zip(PARTS, ('#1f77b4', '#2ca02c', '#9467bd', '#17becf', '#e377c2'), strict=True))


@dataclass(frozen=True)
class Layer:
    """Noise of the gradient of one layer's parameters, in units of `gradient`.

    Attributes:
        name: of the layer.
        gradient: the norm of float's gradient of the mini-batch that is drawn again and again.
        batches: standard deviation over mini-batches, in float.
        rounding: standard deviation over draws of the random bits.
        bias: how far the mean over the draws is from float's gradient, 0 if that cannot be told.
        parts: as `rounding`, with one kind of tensor rounded and all others at 15 bits.
    """

    name: str
    gradient: float
    batches: float
    rounding: float
    bias: float
    parts: dict[str, float]

    @classmethod
    def of(
        cls,
        name: str,
        parameters: list[str],
        exact: Gradients,
        batches: Spread,
        whole: Spread,
        parts: dict[str, Spread],
    ) -> Layer:
        """The noise of some parameters together."""
        scale = norm(exact, *parameters)

        def relative(variance: float) -> float:
            return math.sqrt(max(variance, 0)) / scale

        return cls(
            name,
            scale,
            relative(batches.variance(*parameters)),
            relative(whole.variance(*parameters)),
            relative(whole.bias(exact, *parameters)),
            {part: relative(spread.variance(*parameters)) for part, spread in parts.items()},
        )

    @property
    def weak(self) -> bool:
        """Whether the gradient is weaker than `WEAK` times its own rounding noise."""
        return self.rounding * WEAK > 1


@dataclass(frozen=True)
class Report:
    """All that was measured.

    Attributes:
        loss, losses: of float and of each draw.
        whole, layers: all parameters together, and each layer's.
        wide: the noise with 15 bits everywhere.
        sources: the noise of all gradients together that each place's rounding alone brings about,
            from one draw.
        settings: those of the config with the layers of the loudest sources at 16 bits.
        mended: the noise with these.
        batches, draws: how many.
    """

    loss: float
    losses: list[float]
    whole: Layer
    layers: list[Layer]
    wide: float
    sources: dict[str, float]
    settings: dict
    mended: float
    batches: int
    draws: int

    def to_json(self) -> dict:
        """All numbers."""
        return asdict(self)

    def to_text(self) -> str:
        """Tables and what they say."""
        whole = self.whole
        added = (whole.rounding / whole.batches) ** 2
        shifted = statistics.fmean(self.losses)
        error = statistics.stdev(self.losses) / math.sqrt(self.draws)
        header = ['layer', 'batches', 'rounding', 'bias', *PARTS, '']
        rows = [
            [
                layer.name,
                *(f'{v:.2f}' for v in (layer.batches, layer.rounding, layer.bias)),
                *(f'{layer.parts[part]:.2f}' for part in PARTS),
                'weak' if layer.weak else '',
            ]
            for layer in (whole, *self.layers)
        ]
        weak = sum(layer.weak for layer in self.layers)
        loudest = sorted(self.sources, key=lambda name: -self.sources[name])[:10]
        integer = {
            key: value for key, value in self.settings.items() if value not in (None, (), ('*',))
        }
        written = ', '.join(f'{key}={value!r}' for key, value in integer.items())
        return '\n'.join(
            [
                'Noise in units of the gradient (float, one mini-batch), parameters of each layer:',
                *_table([header, *rows]),
                '',
                f'Rounding: {whole.rounding:.2f} of the gradient, mini-batches: {whole.batches:.2f}'
                f'. It adds {added:.0%} to the variance that SGD has anyway.',
                f'Loss: {self.loss:.4f} in float, {shifted:.4f} ± {error:.4f} with rounding.',
                f'With 15 bits everywhere the noise is {self.wide:.3f}.',
                f'{weak} of {len(self.layers)} layers are weak: their gradient is below {WEAK} '
                'times its own rounding noise.',
                '',
                'Whose rounding alone brings most noise into all gradients:',
                *_table([[name or '(the model)', f'{self.sources[name]:.3f}'] for name in loudest]),
                '',
                f'The line that helps most, {whole.rounding:.2f} to {self.mended:.2f}:',
                f'integer = dict({written})',
            ]
        )

    def draw(self, path: Path) -> None:
        """Draws a row of dots for each layer."""
        import matplotlib

        matplotlib.use('Agg')
        import matplotlib.pyplot as plt

        layers = [self.whole, *self.layers]
        figure, axes = plt.subplots(figsize=(8, 1.6 + 0.2 * len(layers)), layout='constrained')
        rows = range(len(layers))
        kinds = {
            'mini-batches, float': ([each.batches for each in layers], '|', '#57606a', 9),
            'rounding, all': ([each.rounding for each in layers], 'D', '#d1541f', 6),
        }
        for part in PARTS:
            kinds[part] = ([each.parts[part] for each in layers], 'o', COLOURS[part], 4)
        for label, (values, marker, colour, size) in kinds.items():
            axes.plot(values, rows, marker, label=label, color=colour, markersize=size)
        axes.axvline(1 / WEAK, color='#d1541f', linewidth=1, linestyle=':', label='weak beyond')
        axes.set(
            xscale='log',
            xlim=(1e-3, None),
            ylim=(len(layers) - 0.5, -0.5),
            yticks=list(rows),
            yticklabels=[each.name for each in layers],
            xlabel="standard deviation of a layer's gradient, in units of its norm",
        )
        axes.tick_params(axis='y', labelsize=7)
        axes.grid(alpha=0.25)
        figure.legend(loc='outside upper center', ncols=4, frameon=False, fontsize=8)
        figure.savefig(path)
        plt.close(figure)


def norm(gradients: Gradients, *names: str) -> float:
    """Of gradients together."""
    chosen = names or gradients
    return math.sqrt(sum(float(gradients[n].double().square().sum()) for n in chosen))


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
