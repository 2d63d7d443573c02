"""Makes golden/addons.npz: what tensorflow-addons gives for the parts of it that this package replaces.

tensorflow-addons is archived and cannot be imported beside Keras 3, so this runs by hand, once, in an environment of
its own, and the tests compare with the file:

    python3.11 -m venv addons
    addons/bin/pip install tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0 "numpy<2"
    addons/bin/python tests/data/make_addons_golden.py

Arrays: images uint8 [2, 18, 26, 3]; matrices [2, 8] and transformed (constant fill) and clamped (nearest fill) for
image.transform; angles in radians and rotated; shifts (x, y) and translated; composed [1, 8]: matrices of a rotation, a
translation and matrices[0] for compose_transforms; features and instance_normed for InstanceNormalization (epsilon
1e-5, no affine); weights [7, 5] (the trained values, the first the initial ones) and averages [6, 5] for MovingAverage
(decay 0.9); kernel, and spectral_sigma after 1, 2 and 3 power iterations from spectral_u for SpectralNormalization.
All results are float32.
"""

from __future__ import annotations

import pathlib

import numpy as np


def pictures():
    """uint8 [2, 18, 26, 3]: smooth patterns with full contrast and some noise."""
    y, x = np.mgrid[0:18, 0:26].astype(np.float64)
    waves = [np.sin(0.35 * x + 0.2 * channel * y + channel) for channel in range(3)]
    smooth = 127.5 + 110 * np.stack(waves, -1)
    noise = np.random.RandomState(0).uniform(-15, 15, (2, 18, 26, 3))
    return np.clip(np.stack([smooth, smooth[::-1]]) + noise, 0, 255).round().astype(np.uint8)


def geometry(results):
    import tensorflow as tf
    import tensorflow_addons as tfa

    images = pictures()
    floats = tf.constant(images, tf.float32)
    matrices = np.array(
        [[1.1, 0.2, -3.0, -0.1, 0.9, 1.5, 0.004, -0.003], [0.8, -0.3, 4.25, 0.25, 1.2, -2.5, -0.002, 0.005]], np.float32
    )
    angles = np.array([0.3, -1.1], np.float32)
    shifts = np.array([[3.25, -2.0], [-4.0, 1.5]], np.float32)
    results.update(
        images=images,
        matrices=matrices,
        transformed=tfa.image.transform(floats, matrices, "bilinear"),
        transformed_nearest=tfa.image.transform(floats, matrices, "nearest"),
        clamped=tfa.image.transform(floats, matrices, "bilinear", fill_mode="nearest"),
        angles=angles,
        rotated=tfa.image.rotate(floats, angles, "bilinear"),
        shifts=shifts,
        translated=tfa.image.translate(floats, shifts, "bilinear"),
        composed=tfa.image.compose_transforms(
            [
                tfa.image.angles_to_projective_transforms([0.3], 18, 26),
                tfa.image.translations_to_projective_transforms([[3.0, -2.0]]),
                tf.constant(matrices[:1]),
            ]
        ),
    )


def layers(results):
    import tensorflow as tf
    import tensorflow_addons as tfa

    features = np.random.RandomState(1).normal(1, 3, (2, 5, 7, 4)).astype(np.float32)
    norm = tfa.layers.InstanceNormalization(epsilon=1e-5, center=False, scale=False)
    kernel = np.random.RandomState(2).normal(size=(3, 3, 2, 5)).astype(np.float32)
    tf.keras.utils.set_random_seed(0)
    layer = tfa.layers.SpectralNormalization(tf.keras.layers.Conv2D(5, 3, use_bias=False), power_iterations=1)
    layer.build((1, 8, 8, 2))
    start = layer.u.numpy()
    sigmas = []
    for _ in range(3):
        layer.w.assign(kernel)  # it overwrites the kernel with kernel / sigma
        layer.normalize_weights()
        sigmas.append(np.linalg.norm(kernel) / np.linalg.norm(layer.w.numpy()))
    results.update(
        features=features,
        instance_normed=norm(features),
        kernel=kernel,
        spectral_u=start,
        spectral_sigma=np.array(sigmas, np.float32),
    )


def moving_average(results):
    import tensorflow as tf
    import tensorflow_addons as tfa

    variable = tf.Variable(np.linspace(-1, 1, 5), dtype=tf.float32)
    optimizer = tfa.optimizers.MovingAverage(tf.keras.optimizers.legacy.SGD(0.5), average_decay=0.9)
    gradients = np.random.RandomState(3).normal(size=(6, 5)).astype(np.float32)
    weights, averages = [variable.numpy()], []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        weights.append(variable.numpy())
        averages.append(optimizer.get_slot(variable, "average").numpy())
    results.update(weights=np.array(weights), averages=np.array(averages))


def main():
    results = {}
    geometry(results)
    layers(results)
    moving_average(results)
    path = pathlib.Path(__file__).parent / "golden" / "addons.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **{name: np.asarray(value) for name, value in results.items()})
    print({name: np.asarray(value).shape for name, value in results.items()}, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
