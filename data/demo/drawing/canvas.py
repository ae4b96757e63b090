"""Canvas of the backgrounds, at twice the size of the scene, with the shapes that several places share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

SUPERSAMPLE = 2
Color = tuple[int, int, int]


@dataclass
class Canvas:
    """Image to draw on; all lengths are pixels of this image."""

    image: Image.Image
    w: int
    """Width."""
    h: int
    """Height."""
    hz: int
    """Row of the horizon."""
    rng: Generator

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)

    def uniform(self, low: float, high: float) -> float:
        """Sample a number between two limits."""
        return low + (high - low) * self.rng.random()

    def jitter_color(self, color: Color, amount: float = 12) -> Color:
        """Make a color lighter or darker by a random amount."""
        change = self.uniform(-amount, amount)
        red, green, blue = (max(0, min(255, round(c + change))) for c in color)
        return red, green, blue

    def fill_gradient(self, top: int, bottom: int, above: Color, below: Color) -> None:
        """Fill the rows from `top` to `bottom` with a vertical gradient, over the whole width.

        Args:
            top: First row, in pixels.
            bottom: Row after the last one, in pixels.
            above: Color of the first row, 0 to 255 per channel.
            below: Color of the last row.
        """
        steps = np.linspace(0.0, 1.0, max(2, (bottom - top) // 4))[:, None]
        column = (np.asarray(above) * (1 - steps) + np.asarray(below) * steps).astype(np.uint8)[:, None]
        self.image.paste(Image.fromarray(column).resize((self.w, max(1, bottom - top))), (0, top))

    def draw_dots(self, count: int, top: int, bottom: int, color: Color, size: float) -> None:
        """Draw flat ellipses at random positions, larger in lower rows: grass, stones, snow.

        Args:
            count: Number of ellipses.
            top: Lowest y coordinate of an ellipse, in pixels.
            bottom: Highest y coordinate.
            color: Mean color.
            size: Size in pixels, multiplied by 0.4 (at `top`) to 1.3 (at `bottom`): an ellipse is one to three times as
                wide, and half as high.
        """
        positions = self.rng.random((count, 3))
        for x, y, stretch in positions.tolist():
            scaled_size = size * (0.4 + 0.9 * y)
            left, row = x * self.w, top + y * (bottom - top)
            self.draw.ellipse(
                (left, row, left + scaled_size * (1 + 2 * stretch), row + scaled_size * 0.5),
                fill=self.jitter_color(color),
            )

    def draw_ridge(self, base: int, height: float, color: Color, steps: int = 9) -> list[tuple[float, float]]:
        """Draw a line of hills over the whole width.

        Args:
            base: Row on which the hills stand, in pixels.
            height: Maximum height of a hill, in pixels; the minimum is 35 percent of it.
            color: Color of the hills.
            steps: Number of straight pieces of the upper edge.

        Returns:
            Points (x, y) of the upper edge, in pixels, from left to right.
        """
        tops = [(self.w * i / steps, base - height * self.uniform(0.35, 1.0)) for i in range(steps + 1)]
        self.draw.polygon([(0, base), *tops, (self.w, base)], fill=color)
        return tops

    def draw_cloud(self) -> None:
        """Draw a white cloud in the upper sky."""
        x, y, r = self.uniform(0, self.w), self.uniform(0.03, 0.5) * self.hz, self.uniform(0.02, 0.04) * self.w
        for i in range(4):
            center, height = x + i * r * 1.1, self.uniform(0.5, 1.1) * r
            self.draw.ellipse((center - r * 1.2, y - height, center + r * 1.2, y + r * 0.5), fill=(250, 250, 252))

    def draw_sky(self, top: Color = (88, 164, 236), low: Color = (206, 232, 250), clouds: int = 3) -> None:
        """Draw the sky above the horizon.

        Args:
            top: Mean color of the upper edge of the image.
            low: Mean color at the horizon.
            clouds: Maximum number of clouds.
        """
        self.fill_gradient(0, self.hz + 2, self.jitter_color(top, 25), self.jitter_color(low, 10))
        for _ in range(int(self.uniform(0, clouds + 1))):
            self.draw_cloud()

    def draw_row_of_trees(
        self,
        draw_tree: Callable[[float, float, float, Color], None],
        count: int,
        base: float,
        heights: tuple[float, float],
        color: tuple[Color, float],
    ) -> None:
        """Draw distant trees side by side over the width of the picture.

        Args:
            draw_tree: Draws one tree: `draw_round_tree` or `draw_fir`.
            count: Number of trees.
            base: y coordinate of the ground, in pixels.
            heights: Minimum and maximum height, in pixels.
            color: Mean color and the maximum difference from it, per channel.
        """
        for i in range(count):
            x = self.w * (i + self.uniform(0, 1)) / count
            draw_tree(x, base, self.uniform(*heights), self.jitter_color(*color))

    def draw_round_tree(self, x: float, base: float, height: float, color: Color) -> None:
        """Draw a distant tree with a round crown.

        Args:
            x: x coordinate of the trunk, in pixels.
            base: y coordinate of the ground, in pixels.
            height: Height, in pixels.
            color: Color of the crown.
        """
        self.draw.rectangle((x - height * 0.06, base - height * 0.4, x + height * 0.06, base), fill=(98, 72, 50))
        self.draw.ellipse((x - height * 0.38, base - height, x + height * 0.38, base - height * 0.25), fill=color)

    def draw_fir(self, x: float, base: float, height: float, color: Color) -> None:
        """Draw a distant fir; the arguments are those of `draw_round_tree`."""
        self.draw.polygon([(x, base - height), (x - height * 0.26, base), (x + height * 0.26, base)], fill=color)
