"""The brush: a canvas twice the scene's size, its horizon, random numbers, and what several places need."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

SUPERSAMPLE = 2
Color = tuple[int, int, int]


@dataclass
class Canvas:
    """`w`, `h`: size of the canvas in its own pixels; `hz`: row of the horizon."""

    image: Image.Image
    w: int
    h: int
    hz: int
    rng: Generator

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)

    def uniform(self, low: float, high: float) -> float:
        """A random number between the two."""
        return low + (high - low) * self.rng.random()

    def jitter_color(self, color: Color, much: float = 12) -> Color:
        """The color, a little lighter or darker."""
        by = self.uniform(-much, much)
        return tuple(max(0, min(255, round(c + by))) for c in color)

    def fill_gradient(self, top: int, bottom: int, above: Color, below: Color) -> None:
        """Fill the rows with a gradient."""
        steps = np.linspace(0.0, 1.0, max(2, (bottom - top) // 4))[:, None]
        column = (np.asarray(above) * (1 - steps) + np.asarray(below) * steps).astype(np.uint8)[:, None]
        self.image.paste(Image.fromarray(column).resize((self.w, max(1, bottom - top))), (0, top))

    def dots(self, count: int, top: int, bottom: int, color: Color, size: float) -> None:
        """Flat specks strewn over the rows, larger below: grass, pebbles, drifts."""
        places = self.rng.random((count, 3))
        for x, y, much in places.tolist():
            near = size * (0.4 + 0.9 * y)
            at, row = x * self.w, top + y * (bottom - top)
            self.draw.ellipse((at, row, at + near * (1 + 2 * much), row + near * 0.5), fill=self.jitter_color(color))

    def ridge(self, base: int, tall: float, color: Color, steps: int = 9) -> list[tuple[float, float]]:
        """A jagged or rolling line of hills that stands on row `base`."""
        tops = [(self.w * i / steps, base - tall * self.uniform(0.35, 1.0)) for i in range(steps + 1)]
        self.draw.polygon([(0, base), *tops, (self.w, base)], fill=color)
        return tops

    def cloud(self) -> None:
        """A white cloud somewhere in the upper sky."""
        x, y, r = self.uniform(0, self.w), self.uniform(0.03, 0.5) * self.hz, self.uniform(0.02, 0.04) * self.w
        for i in range(4):
            at, up = x + i * r * 1.1, self.uniform(0.5, 1.1) * r
            self.draw.ellipse((at - r * 1.2, y - up, at + r * 1.2, y + r * 0.5), fill=(250, 250, 252))

    def sky(self, top: Color = (88, 164, 236), low: Color = (206, 232, 250), clouds: int = 3) -> None:
        """Sky down to the horizon."""
        self.fill_gradient(0, self.hz + 2, self.jitter_color(top, 25), self.jitter_color(low, 10))
        for _ in range(int(self.uniform(0, clouds + 1))):
            self.cloud()

    def crown(self, x: float, base: float, tall: float, color: Color) -> None:
        """A far, round tree."""
        self.draw.rectangle((x - tall * 0.06, base - tall * 0.4, x + tall * 0.06, base), fill=(98, 72, 50))
        self.draw.ellipse((x - tall * 0.38, base - tall, x + tall * 0.38, base - tall * 0.25), fill=color)

    def fir(self, x: float, base: float, tall: float, color: Color) -> None:
        """A far, pointed tree."""
        self.draw.polygon([(x, base - tall), (x - tall * 0.26, base), (x + tall * 0.26, base)], fill=color)
