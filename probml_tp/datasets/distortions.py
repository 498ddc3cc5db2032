"""How pixels are changed: each function distorts a batch of images by one number.

All take images ``(N, 28, 28)`` on the scale of 0 to 1, the number, and a generator from which they
draw image by image, in order: what happens to an image does not depend on those after it.
"""

from __future__ import annotations

import io
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, grid_sample, interpolate

__all__ = [
    "add_brightness",
    "add_impulse_noise",
    "add_shot_noise",
    "blend_edges",
    "blur",
    "blur_motion",
    "compress_jpeg",
    "invert_stripes",
    "occlude",
    "pixelate",
    "rotate",
    "rotate_either_way",
    "scale",
    "scale_contrast",
    "shear_either_way",
    "translate_diagonally",
    "warp_elastically",
]

SIDE = 28
ELASTIC_SMOOTHNESS = 4.0
"""Standard deviation of the filter that smooths the displacements, in pixels."""

BLUR_ANGLE = math.pi / 4
"""Motion is at most so far from the horizontal, in radians."""


# ------------------------------------------------------------------------------------------ noise


def add_shot_noise(x: Tensor, photons: float, rng: np.random.Generator) -> Tensor:
    """Count photons: Poisson with mean ``photons`` times the pixel, over ``photons``."""
    counts = rng.poisson(x.numpy() * photons)
    return torch.from_numpy(counts).float() / photons


def add_impulse_noise(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Turn this share of the pixels black or white, with equal probability."""
    from skimage.util import random_noise

    salted: Any = partial(random_noise, mode="s&p", amount=share, rng=rng)
    return torch.from_numpy(np.stack([salted(image) for image in x.numpy()])).float()


# ------------------------------------------------------------------------------------------- blur


def blur(x: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    """Convolve with a normal density of this standard deviation, in pixels."""
    from skimage.filters import gaussian

    smooth: Any = partial(gaussian, sigma=(0, sigma, sigma), mode="constant")
    return torch.from_numpy(smooth(x.numpy()))


def blur_motion(x: Tensor, length: float, rng: np.random.Generator) -> Tensor:
    """Average over shifts along a segment of this length in pixels, at U(-45, 45) degrees."""
    angle = torch.from_numpy(rng.uniform(-BLUR_ANGLE, BLUR_ANGLE, len(x))).float()
    direction = torch.stack([angle.cos(), angle.sin()], 1)
    steps = torch.linspace(-length / 2, length / 2, math.ceil(length) + 1, device="cpu")
    return sum((_shifted(x, step * direction) for step in steps), torch.zeros_like(x)) / len(steps)


def pixelate(x: Tensor, side: float, rng: np.random.Generator) -> Tensor:
    """Average down to this number of pixels a side, and repeat them up again."""
    coarse = adaptive_avg_pool2d(x.unsqueeze(1), int(side))
    return interpolate(coarse, size=SIDE, mode="nearest-exact").squeeze(1)


def compress_jpeg(x: Tensor, quality: float, rng: np.random.Generator) -> Tensor:
    """Write as JPEG of this quality, on Pillow's scale of 1 to 95, and read again."""
    pixels = (255 * x).round().to(torch.uint8).numpy()
    return torch.from_numpy(np.stack([_as_jpeg(image, int(quality)) for image in pixels])) / 255


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))


# ------------------------------------------------------------------------------------------- tone


def add_brightness(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Add this amount to every pixel, on the scale of 0 to 1."""
    return x + amount


def scale_contrast(x: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    """Multiply the deviations from the image's mean by this factor."""
    mean = x.mean((1, 2), keepdim=True)
    return mean + factor * (x - mean)


# ----------------------------------------------------------------------------------------- shapes


def invert_stripes(x: Tensor, width: float, rng: np.random.Generator) -> Tensor:
    """Invert the columns within this many pixels of the left and the right edge."""
    column = torch.arange(SIDE, device="cpu")
    outside = (column < width) | (column >= SIDE - width)
    return torch.where(outside, 1 - x, x)


def occlude(x: Tensor, side: float, rng: np.random.Generator) -> Tensor:
    """Set a square of this many pixels a side to background, anywhere inside the image."""
    first = torch.from_numpy(rng.random((len(x), 2, 1)) * (SIDE - side + 1)).floor()
    place = torch.arange(SIDE, device="cpu")
    rows, columns = ((place >= first) & (place < first + side)).unbind(1)
    return x.masked_fill(rows.unsqueeze(2) & columns.unsqueeze(1), 0.0)


def blend_edges(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Mix this share of the image's Canny edges (sigma of 1 pixel) with the image."""
    from skimage.feature import canny

    edges_of: Any = canny
    edges = torch.from_numpy(np.stack([edges_of(image) for image in x.numpy()])).float()
    return (1 - share) * x + share * edges


# --------------------------------------------------------------------------------------- geometry


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Rotate counterclockwise about the centre."""
    angle = torch.full((len(x),), math.radians(degrees), dtype=torch.float64, device="cpu")
    return _rotated(x, angle)


def rotate_either_way(x: Tensor, degrees: float, rng: np.random.Generator) -> Tensor:
    """Rotate about the centre, to the left or to the right with equal probability."""
    return _rotated(x, math.radians(degrees) * _signs(rng, len(x), 1).squeeze(1))


def shear_either_way(x: Tensor, slope: float, rng: np.random.Generator) -> Tensor:
    """Move each row sideways by this many pixels for each pixel from the centre, either way."""
    matrix = torch.eye(2, dtype=torch.float64, device="cpu").repeat(len(x), 1, 1)
    matrix[:, 0, 1] = slope * _signs(rng, len(x), 1).squeeze(1)
    return _affine(x, matrix)


def scale(x: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    """Shrink about the centre to this share of the size."""
    matrix = torch.eye(2, dtype=torch.float64, device="cpu").repeat(len(x), 1, 1)
    return _affine(x, matrix / factor)


def translate_diagonally(x: Tensor, pixels: float, rng: np.random.Generator) -> Tensor:
    """Move by this many pixels along each axis, each way with equal probability."""
    return _shifted(x, pixels * _signs(rng, len(x), 2))


def warp_elastically(x: Tensor, pixels: float, rng: np.random.Generator) -> Tensor:
    """Displace pixels by a smooth field of this root mean square length (Simard et al. 2003)."""
    from skimage.filters import gaussian

    noise = rng.standard_normal((len(x), SIDE, SIDE, 2))
    sigma = (0, ELASTIC_SMOOTHNESS, ELASTIC_SMOOTHNESS, 0)
    smoothed: Any = partial(gaussian, sigma=sigma, mode="reflect")
    smooth = smoothed(noise)
    length = np.sqrt((smooth**2).sum(-1).mean((1, 2)))
    field = torch.from_numpy(pixels * smooth / length[:, None, None, None])
    identity = torch.eye(2, 3, dtype=torch.float64, device="cpu").expand(len(x), 2, 3)
    return _sampled(x, _grid(identity) + 2 * field / SIDE)


def _rotated(x: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _affine(x, torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2))


def _shifted(x: Tensor, offset: Tensor) -> Tensor:
    """Move images right and down by ``offset``, ``(N, 2)`` in pixels."""
    identity = torch.eye(2, device="cpu").expand(len(x), 2, 2)
    return _affine(x, identity, -2 * offset / SIDE)


def _affine(x: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Look up each pixel at ``matrix`` times its place, both from the centre, plus ``shift``."""
    shift = matrix.new_zeros(len(x), 2) if shift is None else shift
    return _sampled(x, _grid(torch.cat([matrix, shift.unsqueeze(2).to(matrix)], 2)))


def _grid(matrix: Tensor) -> Tensor:
    return affine_grid(matrix, [len(matrix), 1, SIDE, SIDE], align_corners=False)


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Interpolate linearly at places where the image covers [-1, 1]; outside is background."""
    return grid_sample(x.unsqueeze(1), grid.to(x), align_corners=False).squeeze(1)


def _signs(rng: np.random.Generator, n: int, columns: int) -> Tensor:
    """-1 or 1 with equal probability, ``(n, columns)``."""
    return torch.from_numpy(rng.choice([-1.0, 1.0], (n, columns)))
