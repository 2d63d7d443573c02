"""Makes golden/opencv.npz: Canny edges, dilation, colour spaces and lookup tables of OpenCV.

    pip install opencv-python-headless
    python tests/data/make_opencv_golden.py tests/data/golden/opencv.npz

The pictures are drawn here from seeds (`scene`), so only what OpenCV made of them is stored.
"""

from __future__ import annotations

import sys

import numpy as np


def scene(seed: int, height: int = 60, width: int = 72) -> np.ndarray:
    """uint8 [h, w, 3]: soft and hard discs and bars, some of them faint, under a little noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    image = np.full((height, width, 3), 120.0) + 60 * (x / width)[..., None]
    for _ in range(9):
        cy, cx, r = random.uniform(0, height), random.uniform(0, width), random.uniform(4, 18)
        soft, colour = random.uniform(0.3, 4), random.uniform(0, 255, 3)
        inside = 1 / (1 + np.exp((np.hypot(y - cy, x - cx) - r) / soft))
        image += inside[..., None] * (colour - image) * random.uniform(0.2, 1)
    angle = random.uniform(0, np.pi)
    bar = np.abs(np.cos(angle) * (x - width / 2) + np.sin(angle) * (y - height / 2)) < 3
    image[bar] = random.uniform(0, 255, 3)
    return np.clip(np.round(image + random.normal(0, 2, image.shape)), 0, 255).astype(np.uint8)


def colours() -> np.ndarray:
    """uint8 [64, 64, 3]: random colours, greys and pure ones among them."""
    random = np.random.RandomState(0)
    image = random.randint(0, 256, (64, 64, 3), dtype=np.uint8)
    image[:4] = image[:4, :, :1]
    image[4:8] = np.where(image[4:8] > 127, 255, 0)
    image[8:12] = image[8:12] // 8
    return image


def main(output: str) -> None:
    import cv2

    golden = {}
    for seed in range(4):
        rgb = scene(seed)
        edges = cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), 100, 200)
        near = cv2.dilate(edges, np.ones((5, 5), np.uint8)) != 0
        kernel = cv2.getGaussianKernel(5, 0)
        blurred = cv2.filter2D(rgb.astype(np.float64), -1, kernel @ kernel.T, borderType=cv2.BORDER_REFLECT_101)
        golden[f"edges{seed}"] = np.packbits(edges != 0)
        golden[f"blurred{seed}"] = np.where(near[..., None], np.floor(blurred + 1e-9), rgb).astype(np.uint8)
    rgb = colours()
    for name, there, back in (
        ("hsv", cv2.COLOR_RGB2HSV_FULL, cv2.COLOR_HSV2RGB_FULL),
        ("hsl", cv2.COLOR_RGB2HLS_FULL, cv2.COLOR_HLS2RGB_FULL),
    ):
        golden[name] = cv2.cvtColor(rgb, there)
        golden[f"{name}_of_colours"] = cv2.cvtColor(rgb, back)  # any three bytes are a colour
    np.savez_compressed(output, **golden)
    print({key: (value.shape, value.mean()) for key, value in golden.items()})


if __name__ == "__main__":
    main(sys.argv[1])
